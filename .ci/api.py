"""The public surface of the libraries, one line for each item, as rustdoc sees it.

Usage: api.py [--write]. Compares docs/api.txt with the sources, or writes it anew.
"""

import difflib
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CRATES = ["predictive-coding", "predictive-coding-kernels"]
# What every type has by derivation or by the compiler says nothing about it.
QUIET = {"StructuralPartialEq", "Freeze", "UnwindSafe", "RefUnwindSafe", "Unpin", "UnsafeUnpin", "Send", "Sync"}


def described(crate):
    """What rustdoc writes about a crate with all of its features."""
    command = ["cargo", "rustdoc", "--release", "--quiet", "--lib", "--all-features", "-p", crate, "--"]
    options = ["-Zunstable-options", "--output-format=json", "--cap-lints=allow"]
    environment = os.environ | {"RUSTC_BOOTSTRAP": "1", "RUSTDOCFLAGS": ""}
    subprocess.run(command + options, cwd=ROOT, env=environment, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return json.loads((target / "doc" / f"{crate.replace('-', '_')}.json").read_text())


def arguments(args):
    """`<'a, T, Item = U>` behind a path."""
    if not args:
        return ""
    if "parenthesized" in args:
        inner = args["parenthesized"]
        return f"({', '.join(map(spell, inner['inputs']))}){result(inner['output'])}"
    parts = [next(iter(a.values())) if "type" not in a else spell(a["type"]) for a in args["angle_bracketed"]["args"]]
    parts = [part if isinstance(part, str) else part["expr"] for part in parts]
    for constraint in args["angle_bracketed"]["constraints"]:
        binding = constraint["binding"]
        equal = binding.get("equality")
        told = f" = {spell(equal['type'])}" if equal else f": {bounds(binding['constraint'])}"
        parts.append(constraint["name"] + told)
    return f"<{', '.join(parts)}>" if parts else ""


def path(resolved):
    return resolved["path"].split("::")[-1] + arguments(resolved["args"])


def bounds(all_bounds):
    parts = []
    for bound in all_bounds:
        if "trait_bound" in bound:
            maybe = "?" if bound["trait_bound"]["modifier"] == "maybe" else ""
            parts.append(maybe + path(bound["trait_bound"]["trait"]))
        elif "outlives" in bound:
            parts.append(bound["outlives"])
    return " + ".join(parts)


def result(output):
    return f" -> {spell(output)}" if output else ""


def spell(type_):
    """A type as it is written."""
    if type_ == "infer":
        return "_"
    (kind, inner), = type_.items()
    if kind == "resolved_path":
        return path(inner)
    if kind in ("generic", "primitive"):
        return inner
    if kind == "borrowed_ref":
        lifetime = f"{inner['lifetime']} " if inner["lifetime"] else ""
        return f"&{lifetime}{'mut ' if inner['is_mutable'] else ''}{spell(inner['type'])}"
    if kind == "raw_pointer":
        return f"*{'mut' if inner['is_mutable'] else 'const'} {spell(inner['type'])}"
    if kind == "slice":
        return f"[{spell(inner)}]"
    if kind == "array":
        return f"[{spell(inner['type'])}; {inner['len']}]"
    if kind == "tuple":
        return f"({', '.join(map(spell, inner))})"
    if kind == "impl_trait":
        return f"impl {bounds(inner)}"
    if kind == "dyn_trait":
        traits = [path(bound["trait"]) for bound in inner["traits"]]
        return "dyn " + " + ".join(traits + ([inner["lifetime"]] if inner["lifetime"] else []))
    if kind == "qualified_path":
        if inner["self_type"] == {"generic": "Self"}:
            return f"Self::{inner['name']}"
        return f"<{spell(inner['self_type'])} as {path(inner['trait'])}>::{inner['name']}"
    if kind == "function_pointer":
        inputs = [spell(type_) for _, type_ in inner["sig"]["inputs"]]
        return f"fn({', '.join(inputs)}){result(inner['sig']['output'])}"
    raise ValueError(f"a type of kind {kind} is not known here")


def generics(given):
    parts = []
    for parameter in given["params"]:
        kind, = parameter["kind"]
        if kind == "const":
            parts.append(f"const {parameter['name']}: {spell(parameter['kind']['const']['type'])}")
        elif kind == "type":
            if parameter["kind"]["type"]["is_synthetic"]:
                continue
            needs = bounds(parameter["kind"]["type"]["bounds"])
            parts.append(parameter["name"] + (f": {needs}" if needs else ""))
        else:
            parts.append(parameter["name"])
    return f"<{', '.join(parts)}>" if parts else ""


def function(name, inner):
    told = []
    for argument, type_ in inner["sig"]["inputs"]:
        receiver = spell(type_)
        told.append(receiver.replace("Self", "self") if argument == "self" else f"{argument}: {receiver}")
    words = [word for word, said in [("const", "is_const"), ("unsafe", "is_unsafe")] if inner["header"][said]]
    head = " ".join([*words, "fn"])
    return f"{head} {name}{generics(inner['generics'])}({', '.join(told)}){result(inner['sig']['output'])}"


class Crate:
    def __init__(self, name):
        self.json = described(name)
        self.index = self.json["index"]
        self.lines = []
        self.lacking = []
        root = self.item(self.json["root"])
        self.module(root["name"], root)

    def item(self, id_):
        return self.index.get(str(id_))

    def line(self, text, item):
        marks = "#[non_exhaustive] " if any("non_exhaustive" in str(a) for a in item["attrs"]) else ""
        self.lines.append(marks + text)

    def shows(self, item):
        """Whether its documentation has an example, or a link to an item."""
        return "```" in (item["docs"] or "") or bool(item["links"])

    def module(self, prefix, module):
        for id_ in module["inner"]["module"]["items"]:
            item = self.item(id_)
            (kind, inner), = item["inner"].items()
            if kind == "use":
                target = self.item(inner["id"])
                if target is None:
                    self.line(f"pub use {inner['source']}", item)
                    continue
                item, name = target, inner["name"]
                (kind, inner), = item["inner"].items()
            else:
                name = item["name"]
            if kind == "module":
                self.line(f"pub mod {prefix}::{name}", item)
                self.module(f"{prefix}::{name}", item)
            elif kind != "macro":
                self.one(f"{prefix}::{name}", kind, inner, item)

    def one(self, name, kind, inner, item):
        if not self.shows(item):
            self.lacking.append(name)
        if kind == "function":
            self.line("pub " + function(name, inner), item)
        elif kind == "constant":
            self.line(f"pub const {name}: {spell(inner['type'])}", item)
        elif kind == "type_alias":
            self.line(f"pub type {name}{generics(inner['generics'])} = {spell(inner['type'])}", item)
        elif kind == "trait":
            self.line(f"pub trait {name}{generics(inner['generics'])}: {bounds(inner['bounds'])}".rstrip(": "), item)
            self.members(name, inner["items"])
        elif kind in ("struct", "enum"):
            self.line(f"pub {kind} {name}{generics(inner['generics'])}", item)
            if kind == "struct":
                shape = inner["kind"]
                fields = shape["plain"]["fields"] if "plain" in shape else shape["tuple"] if "tuple" in shape else []
                self.fields(name, fields)
            else:
                for id_ in inner["variants"]:
                    variant = self.item(id_)
                    shape = variant["inner"]["variant"]["kind"]
                    fields = [] if shape == "plain" else shape.get("tuple") or shape["struct"]["fields"]
                    self.line(f"pub {name}::{variant['name']}", variant)
                    self.fields(f"{name}::{variant['name']}", fields)
            self.implementations(name, inner["impls"])
        else:
            raise ValueError(f"{name} is a {kind}, which is not known here")

    def fields(self, name, ids):
        for field in filter(None, map(self.item, filter(None, ids))):
            self.line(f"pub {name}::{field['name']}: {spell(field['inner']['struct_field'])}", field)

    def members(self, name, ids):
        for member in filter(None, map(self.item, ids)):
            (kind, inner), = member["inner"].items()
            if kind == "function":
                self.line("pub " + function(f"{name}::{member['name']}", inner), member)
            elif kind == "assoc_const":
                self.line(f"pub const {name}::{member['name']}: {spell(inner['type'])}", member)

    def implementations(self, name, ids):
        for id_ in ids:
            inner = self.item(id_)["inner"]["impl"]
            if inner["is_synthetic"] or inner["blanket_impl"]:
                continue
            if inner["trait"] is None:
                self.members(name, inner["items"])
            elif inner["trait"]["path"].split("::")[-1] not in QUIET:
                self.lines.append(f"impl {path(inner['trait'])} for {name}")


crates = [Crate(name) for name in CRATES]
lacking = [name for crate in crates for name in crate.lacking]
if lacking:
    sys.exit("these have neither an example nor a link to one: " + ", ".join(lacking))
lines = [line + "\n" for crate in crates for line in sorted(crate.lines)]
file = ROOT / "docs" / "api.txt"
if sys.argv[1:] == ["--write"]:
    file.write_text("".join(lines))
elif (written := file.read_text().splitlines(keepends=True)) != lines:
    sys.stdout.writelines(difflib.unified_diff(written, lines, "docs/api.txt", "the sources"))
    sys.exit("the public surface is another than docs/api.txt says; see that it is meant, then python3 .ci/api.py --write")
