#!/usr/bin/env python3
"""Writes workers/fixtures/templates/expected.json: what Python's Jinja makes of the chat templates there, set up as the
`transformers` library sets it up. Ours must say the same. Needs jinja2 (any 3.x)."""

import json
import pathlib

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "workers/fixtures/templates"


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def refuse(message):
    raise TemplateError(message)


def rendered(template, case):
    tools = [{"type": "function", "function": tool} for tool in case["tools"]] if "tools" in case else None
    try:
        return {
            "text": template.render(
                messages=case["messages"], tools=tools, bos_token="<s>", eos_token="</s>", add_generation_prompt=True
            )
        }
    except TemplateError as error:
        return {"refused": str(error)}


def main():
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    cases = json.loads((FIXTURES / "cases.json").read_text())
    expected = {
        path.stem: {name: rendered(environment.from_string(path.read_text()), case) for name, case in cases.items()}
        for path in sorted(FIXTURES.glob("*.jinja"))
    }
    (FIXTURES / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1) + "\n")


main()
