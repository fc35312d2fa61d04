"""``python -m finetune``: the command line, also below ``torchrun``."""

from finetune.cli import main

if __name__ == "__main__":
    main()
