#!/usr/bin/env python3
"""What of deny.toml can be checked without cargo-deny and without a network: licences, sources, duplicate versions."""

import collections
import json
import re
import subprocess
import sys
import tomllib

REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"


def allowed(expression, licences):
    """Whether an SPDX expression can be met by these licences."""
    terms = re.findall(r"\(|\)|\bAND\b|\bOR\b|/|[\w.+-]+(?: WITH [\w.-]+)?", expression)
    words = {"(": "(", ")": ")", "AND": "and", "OR": "or", "/": "or"}
    return eval(" ".join(words.get(term, str(term in licences)) for term in terms))


def main():
    with open("deny.toml", "rb") as file:
        licences = set(tomllib.load(file)["licenses"]["allow"])
    command = ["cargo", "metadata", "--format-version", "1", "--all-features", "--locked"]
    packages = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["packages"]
    versions = collections.defaultdict(set)
    wrong = []
    for package in packages:
        name, licence, source = package["name"], package["license"], package["source"]
        versions[name].add(package["version"])
        if licence is None or not allowed(licence, licences):
            wrong.append(f"{name}: licence {licence}, expected one that deny.toml allows")
        if source not in (None, REGISTRY):
            wrong.append(f"{name}: from {source}, expected crates.io")
    for name, found in sorted(versions.items()):
        if len(found) > 1:
            print(f"note: {name} in versions {', '.join(sorted(found))}")
    print(f"{len(packages)} packages, {len(wrong)} refused")
    sys.exit("\n".join(wrong) if wrong else 0)


main()
