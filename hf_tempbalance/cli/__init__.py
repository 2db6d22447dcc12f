"""The console command ``hf-tempbalance``."""
