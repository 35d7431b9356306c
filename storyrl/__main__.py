"""`python -m storyrl` is the `storyrl` command."""

from storyrl.cli import main

if __name__ == "__main__":
    main()
