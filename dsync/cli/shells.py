"""The scripts that make a shell complete `dsync`: click's own, and for bash and zsh what URIs need beside them.

In bash a colon ends a word, so that `postgresql://a/shop` would be three arguments and what is offered would be put in
behind the colon again. In zsh a blank would follow `postgresql://`.
"""

from __future__ import annotations

import os

from click.shell_completion import (
    BashComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from dsync.cli.root import dsync

VARIABLE = "_DSYNC_COMPLETE"
"""Where click looks for what a shell asks; `dsync.cli.main` looks there too, without importing this."""

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n'
    local type value line="${COMP_LINE:0:COMP_POINT}" before=""
    local word="${line##*[[:space:]]}"

    # What bash replaces begins behind the last character that ends a word for it.
    [[ $COMP_WORDBREAKS == *:* && $word == *:* ]] && before="${word%%"${word##*:}"}"

    COMPREPLY=()
    while IFS=',' read -r type value; do
        if [[ $type == 'dir' ]]; then
            compopt -o dirnames
        elif [[ $type == 'file' ]]; then
            compopt -o default
        elif [[ $type == 'plain' ]]; then
            [[ $value == *: || $value == *:// ]] && compopt -o nospace
            COMPREPLY+=("${value#"$before"}")
        fi
    done < <(env COMP_WORDS="$line" %(complete_var)s=bash_complete "$1")

    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    """Reads the line as it was typed rather than as bash has cut it."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)
        incomplete = words.pop() if words and not line[-1:].isspace() else ""
        return words[1:], incomplete


class _Zsh(ZshComplete):
    """Adds no blank behind a scheme."""

    source_template = ZshComplete.source_template.replace(
        'if [[ "$descr" == "_" ]]; then',
        'if [[ "$key" == *: || "$key" == *:// ]]; then\n'
        '                compadd -U -S "" -- "$key"\n'
        '            elif [[ "$descr" == "_" ]]; then',
    )


def register() -> None:
    """Let our own classes answer when a shell asks."""
    add_completion_class(_Bash)
    add_completion_class(_Zsh)


def script(shell: str) -> str:
    """The text that a shell evaluates to complete `dsync` from then on."""
    register()
    kind: type[ShellComplete] | None = get_completion_class(shell)
    assert kind is not None, f"click knows {shell}"
    return kind(dsync, {}, "dsync", VARIABLE).source()
