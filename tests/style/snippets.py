"""Every configuration in README, docs and manual is one that postern takes, and
every link between documents leads to one.

A block counts as a configuration if it is marked ini (in mdoc: if its first
line is a section). Names of users and groups are replaced by one that every
host has, since `check` refuses names that do not resolve.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile


def markdown_blocks(text):
    for m in re.finditer(r"^```ini\n(.*?)^```$", text, re.M | re.S):
        yield text.count("\n", 0, m.start()) + 2, m.group(1)


def mdoc_blocks(text):
    for m in re.finditer(r"^\.Bd -literal.*?\n(.*?)^\.Ed$", text, re.M | re.S):
        body = m.group(1).replace(r"\&", "")
        if body.lstrip().startswith("["):
            yield text.count("\n", 0, m.start()) + 2, body


def blocks(top):
    pages = [*top.glob("*.md"), *top.glob("docs/**/*.md")]
    for page in sorted(pages):
        for line, body in markdown_blocks(page.read_text()):
            yield page.relative_to(top), line, body
    for example in sorted(top.glob("conf/*.ini")):
        yield example.relative_to(top), 1, example.read_text()
    for page in sorted(top.glob("man/*.[158]")):
        for line, body in mdoc_blocks(page.read_text()):
            yield page.relative_to(top), line, body


def check(postern, folder, body):
    """None, or what postern says against it."""
    path = os.path.join(folder, "snippet.ini")
    body = re.sub(r"\b(user|group) [a-z][a-z0-9-]*", r"\1 root", body)
    body = re.sub(r"^(listen_group|workload_api_user)( *= *)\S+",
                  r"\1\2root", body, flags=re.M)
    with open(path, "w", encoding="utf-8") as f:
        f.write(body)
    os.chmod(path, 0o644)
    env = dict(os.environ, SPIFFE_ENDPOINT_SOCKET="unix:///run/agent.sock")
    done = subprocess.run([postern, "check", path], capture_output=True,
                          text=True, env=env, check=False)
    return done.stdout + done.stderr if done.returncode else None


def broken_links(top):
    for page in [*top.glob("*.md"), *top.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            if not (page.parent / target).exists():
                yield page.relative_to(top), target


def main(postern, top):
    count = failed = 0
    for page, target in broken_links(pathlib.Path(top)):
        failed += 1
        print("%s: no such document: %s" % (page, target))
    with tempfile.TemporaryDirectory() as folder:
        for page, line, body in blocks(pathlib.Path(top)):
            count += 1
            complaint = check(postern, folder, body)
            if complaint:
                failed += 1
                print("%s:%d: %s" % (page, line, complaint))
        # A checker that takes everything would prove nothing.
        if check(postern, folder, "[inbound a]\nlisten = nonsense\n") is None:
            failed += 1
            print("postern check took nonsense")
    print("%d snippets, %d findings" % (count, failed))
    return 1 if failed or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
