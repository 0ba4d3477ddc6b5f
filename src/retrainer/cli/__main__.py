"""``python -m retrainer.cli`` is the ``retrainer`` command."""

from retrainer.cli import main

if __name__ == "__main__":
    main()
