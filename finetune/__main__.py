"""Entry point of ``python -m finetune``, which also runs under ``torchrun``."""

from finetune.cli import main

if __name__ == "__main__":
    main()
