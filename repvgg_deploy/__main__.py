"""``python -m repvgg_deploy``: the same as the ``repvgg-deploy`` command."""

from repvgg_deploy.cli.main import main

if __name__ == "__main__":
    main()
