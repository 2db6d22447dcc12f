#!/usr/bin/env bash
# Trains one small network on scikit-learn's digits with plain SGD and with TempBalance, and compares them.
# About a minute on 2 cores after the installation; nothing is downloaded but packages.
set -euo pipefail
source "$(dirname "$0")/install.sh"
out=runs/quickstart
rm -rf "$out"
for method in sgd tempbalance; do
    [ "$method" = tempbalance ] && balance=true || balance=false
    echo "== $method"
    .venv/bin/python scripts/train.py --config configs/quickstart.yaml --tempbalance "$balance" --output_dir "$out/$method"
done
.venv/bin/python scripts/compare.py "$out/sgd" "$out/tempbalance" --picture "$out/comparison.png"
echo "Both rows move with the seed and the number of CPU threads: this shows what the package does, not that it wins."
