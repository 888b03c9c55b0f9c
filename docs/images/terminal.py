"""A picture (SVG) of a terminal that shows a command line and standard input, which may hold escape sequences for colors."""

import re
import sys

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

command = sys.argv[1]
output = Text.from_ansi(sys.stdin.read().rstrip("\n"))
width = max([len(command) + 2, *(line.cell_len for line in output.split())]) + 2

console = Console(record=True, width=width, file=open("/dev/null", "w"))
console.print(Text("$ ", style="bold green") + Text(command, style="bold"))
console.print(output)
svg = console.export_svg(title="", theme=MONOKAI)
# The picture is to need nothing from elsewhere: the reader's own font does.
svg = re.sub(r"@font-face\s*\{[^}]*\}", "", svg).replace("Fira Code", "ui-monospace, Menlo, Consolas")
svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.S)
sys.stdout.write(svg + "\n")
