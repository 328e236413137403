"""``python -m featurectl``."""

from featurectl.cli import main

if __name__ == "__main__":
    main()
