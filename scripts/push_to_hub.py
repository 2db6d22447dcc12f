"""Put a trained model on the Hub: weights, model card, plots and history of a run's output folder.

    hf auth login                                                     # once, or set HF_TOKEN
    python scripts/push_to_hub.py runs/train OWNER/NAME --license apache-2.0

Checkpoints, logs and optimizer states stay here. The card is README.md in the folder; look at it with --card_only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hf_tempbalance.huggingface.parser import run
from hf_tempbalance.terminal import printable


# The arguments are a pickle and name this machine's folders; trackers' files are for the one who trains.
LEFT_HERE = ["_*", "checkpoint-*", "runs/*", "*.txt", "*.bin", "*.html", "results.json", "trainer_state.json", "*.tmp"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path, help="output folder of scripts/train.py or of a Trainer")
    parser.add_argument("repo_id", help="owner/name; it is created if it does not exist")
    parser.add_argument("--dataset", help="Hub id or name of the data, where the run does not tell")
    parser.add_argument("--license", help="licence of the weights, such as apache-2.0 or mit")
    parser.add_argument("--private", action="store_true", help="create the repository as a private one")
    parser.add_argument("--card_only", action="store_true", help="write README.md and its picture, upload nothing")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args()

    from huggingface_hub.utils import validate_repo_id

    from hf_tempbalance.runs.modelcard import write_model_card
    from hf_tempbalance.runs.run import read_run
    from hf_tempbalance.tasks.image_classification import dataset_of

    validate_repo_id(options.repo_id)
    if options.repo_id.count("/") != 1:
        raise ValueError(f"repo_id={options.repo_id!r} is not owner/name.")
    trained = read_run(options.output_dir)
    if not any(options.output_dir.glob("*.safetensors")):
        raise ValueError(f"{options.output_dir} has no safetensors file. Call trainer.save_model() first.")
    name, dataset_id = dataset_of(options.dataset or trained.options.get("dataset"))
    data = {"license": options.license} if options.license else None
    card = write_model_card(trained, repo_id=options.repo_id, data=data, dataset=name, dataset_id=dataset_id)
    if options.card_only:
        print(printable(card))
        return
    print(upload(options.output_dir, options.repo_id, private=options.private))


def upload(folder: Path, repo_id: str, *, private: bool) -> str:
    """Create the repository if need be, upload, and return its address."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    api = HfApi()
    try:
        address = api.create_repo(repo_id, private=private or None, exist_ok=True)
        message = "Upload of a run with hf_tempbalance"
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message, ignore_patterns=LEFT_HERE)
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = "Run `hf auth login` with a token that may write there, or set HF_TOKEN."
        hint = hint if status in (401, 403) else "Try again later."
        raise ValueError(f"The Hub refused {repo_id} (status {status}). {hint}") from error
    except HTTPError as error:
        raise ValueError(f"{api.endpoint} can't be reached: {error}. Check the network, or HF_ENDPOINT.") from error
    return str(address)


if __name__ == "__main__":
    run(main)
