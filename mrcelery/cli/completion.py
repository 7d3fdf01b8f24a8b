"""``mrcelery completion``."""

from __future__ import annotations

import click

from mrcelery.cli.common import epilog


@click.command(
    epilog=epilog(
        "mrcelery completion bash >> ~/.bashrc",
        "mrcelery completion zsh >> ~/.zshrc",
        "mrcelery completion fish > ~/.config/fish/completions/mrcelery.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - only this command needs it

    kind = get_completion_class(shell)
    assert kind is not None  # click has the three that the argument allows
    complete = kind(ctx.find_root().command, {}, "mrcelery", "_MRCELERY_COMPLETE")
    click.echo(complete.source_template % complete.source_vars())
