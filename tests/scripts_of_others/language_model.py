"""A script of the shape of run_clm.py: a small GPT-2 from its configuration, text in memory, no __main__ guard."""

import torch
from neighbour import SENTENCES
from transformers import GPT2Config, GPT2LMHeadModel, HfArgumentParser, Trainer, TrainingArguments, set_seed


(training_args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
set_seed(training_args.seed)
text = torch.tensor(list(" ".join(sentence for sentence, _ in SENTENCES).encode()))
block_size = 32
blocks = [{"input_ids": block, "labels": block} for block in text.split(block_size) if len(block) == block_size]
config = GPT2Config(
    vocab_size=128, n_positions=block_size, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
)
model = GPT2LMHeadModel(config)
trainer = Trainer(model=model, args=training_args, train_dataset=blocks[:32], eval_dataset=blocks[32:])
trainer.train()
trainer.save_model()
trainer.log_metrics("eval", trainer.evaluate())
trainer.save_state()
