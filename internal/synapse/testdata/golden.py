"""Says what Synapse makes of documents and of files: the golden files beside this script.

Run it with the Python of an installed Synapse:

    e2e/.venv/synapse-1.163.2/bin/python internal/synapse/testdata/golden.py > internal/synapse/testdata/synapse-1.163.2.json
    e2e/.venv/synapse-0.34.0/bin/python internal/synapse/testdata/golden.py > internal/synapse/testdata/synapse-0.34.0.json
"""

import contextlib
import io
import json
import os
import tempfile

import yaml
from synapse.config import _base

yaml.load.__defaults__ = (yaml.SafeLoader,)  # PyYAML 6 wants to be told a loader; Synapse 0.34.0 tells none

# What a plain scalar is read as.
SCALARS = """
    y n Y N yes no Yes No YES NO yEs on off On Off ON OFF oN true false True False TRUE FALSE tRue
    ~ null Null NULL nULL nil none None
    0 1 -1 +1 00 01 07 08 09 0777 0o17 0O17 0b1 0b101 0B1 0b_ 0b1_0 -0b1 0x1F 0X1F 0x_ 0xg -0x1f +0x1F 0xffffffffffffffff
    1_000 1__0 _1 1_ 0_ 0_1 08_ 9223372036854775807 9223372036854775808 -9223372036854775808 99999999999999999999
    1e5 1E5 1e+5 1e-5 1e10 1.0 1. .5 . -.5 +.5 1.5e5 1.5e+5 1.5E-5 1_0.5 1._5 ._5 .5_ 1.2.3 1.e5 1.e+5 1.0e+400 0.0 -0.0
    .inf .Inf .INF -.inf +.inf .iNf .nan .NaN .NAN -.nan inf nan
    1:30 1:60 01:30 0:30 -1:30 +1:30 1:30:45 1:30.5 1:30. 1:3 1_0:30 12:30:45.6 190:20:30 1:30:99
    2024-01-01 2024-1-1 2024-13-01 2024-02-30 0000-01-01 2024-01-01T10:00:00Z 2024-01-01T10:00:00 2024-1-1T1:00:00
    2024-01-01t10:00:00.123456789+01:00 2024-01-01T10:00:00+5 2024-01-01T25:00:00Z 2024-01-01T1:1:1 20240101
    = << <<a - -- --- + ++ @a `a %a -a ?a :a a: a:b 1a 127.0.0.1 ::1 50% 10M 7d /a/b http://a a,b a#b q[1] a'b a"b
""".split()

# Texts, with what is refused among them.
DOCUMENTS = ["a: " + scalar for scalar in SCALARS] + [
    "", "# c\n", "---\n", "- 1\n", "abc", "a: 1", "a:", "a: ''", "a: ~", "a: 1\na: 2", "a: {b: 1, b: 2}", "a: 2024-01-01 10:00:00",
    # documents
    "a: 1\n---\nb: 2\n", "a: 1\n---\n", "---\na: 1\n...\n", "---\na: 1\n...\n# c\n", "a: 1\n...\nb: 2\n", "--- {a: 1}", "---\n---\na: 1",
    "%YAML 1.1\n---\na: 1", "%YAML 1.2\n---\na: 1", "%YAML 2.0\n---\na: 1", "%TAG ! tag:x,2000:\n---\na: 1", "%FOO\n---\na: 1",
    # tabs
    "\ta: 1", "a:\tb", "a: b\t", "a: b\t# c", "a: b # c\tc", "a: \"b\"\t\nc: 1", "a:\n\tb: 1", "a:\n  b: 1\n\tc: 2", "{a: 1,\n\tb: 2}",
    "a: 'x\ty'", "a: \"x\ty\"", "a: 'x\n\ty'", "a: 'it''s\tx'", "a: \"x\\\"\ty\"", "a: x\ty", "a: it's\tx", "a: |\n  x\ty\n", "a: |\n\tx\n",
    "a: |\n  x\ty\nb:\t1", "a: >-\n  x\n  \ty\n# c\tc\nb: 1", "a: |\n  x\ty\n\nb: 'x\ty'\nc: 1", "- |\n  x\ty\n-\tz", "a: 1\n\t\nb: 2", "a: 1\n \t# c\nb: 2",
    "a: &x 'b\tc'", "a: !!str 'b\tc'", "a: !!str &x\n  'b\tc'", "# c\t\na: 1", "a: [1,\t2]", "'a\tb': 1", "a: \u00e9'\tb'", "a: '\u00e9\tb'", "a: '\U0001f600\tb'\nc: '\td'",
    # between brackets
    "{a: 1, b: 2}", "{a: 1,\n b: 2\n}", "{a:1}", "{\"a\":1}", "a: [x:y]", "a: [x: y]", "a: [:x]", "a: [::1, 127.0.0.1]", "a: ['::1', 127.0.0.1]",
    "a: {x, y: }", "a: [,]", "a: [1,,2]", "a: [1,]", "a: {? x : y}", "a: {x:1, y:}", "a: {'x':1}", "a: {x: http://y}", "a: [http://y]", "a: [\n1,\n2\n]",
    "a: [b] c", "a: {b: c} d", "key: [a, b\nnext: 1\n", "a: {b: 1\nc: 2\n",
    # keys and indentation
    "a: b: c", "a:\n  b: 1\n c: 2", "a:\n b: 1\n  c: 2", " a: 1\nb: 2", "a: 1\n b: 2", "a\nb: 1", "a:\n- b\n- c", "a:\n  - b\n - c", "a:\n- b\nc: d",
    "a: - x", "a: x: ", "a : 1", "a :1", "'a':1", "a:1", ": 1", "? a\n: b", "? [a]\n: b", "? {a: b}\n: c", "[a, b]: c", "true: 1", "1: 2", "~: 1", "=: 3",
    "a: # c\n  b", "a: #c", "a: 'x'#c", "a: [1]#c", "a: x#c", "a: x #c", "a: x\n  y\n  z", "a: x\n  # c\n  y", "a: x\ny: z", "a: 1\n\n\n\nb: 2 3: 4",
    # quotes and blocks
    "a: 'it''s'", "a: \"x\n  y\"", "a: 'x\n\n  y'", "a: 'b' c", "a: \"\\q\"", "a: \"\\u00e9\\x41\\n\"", "a: \"\\\n  b\"", "key: 'a\nnext: 1\n", "key: \"a\nnext: 1\n",
    "a: |\n  x\n   y\n", "a: >\n  x\n  y\n\n  z\n", "a: |2\n   x\n", "a: |-\n  x\n", "a: |+\n  x\n\n", "a: '---\n---'",
    # anchors, merge keys, tags
    "a: &x 1\nb: *x", "a: *x", "a: *x\nb: &x 1", "a: &x [1]\nb: *x\nc: *x", "a: &a. 1", "a: &x\nb: *x", "a: * x",
    "a: &x {k: 1}\nb: {<<: *x, k: 2}", "a: &x {k: 1}\nb:\n  <<: [*x, {k: 3, j: 4}]", "a: &x {k: 1}\nb: &y {<<: *x, j: 2}\nc: {<<: *y}",
    "'<<': {a: 1}", "<<: {a: 1}\na: 2", "a: 2\n<<: {a: 1}", "<<: [{a: 1}, {a: 2}]", "<<: 3", "<<: [1]",
    "a: !!str 12", "a: !!int '12'", "a: !!int x", "a: !!float 3", "a: !!bool yes", "a: !!bool x", "a: !!null ''", "a: !!binary aGk=", "a: !!timestamp 2001-01-01",
    "a: !foo x", "a: !!python/none x", "a: !!python/object/apply:os.system [x]", "a: !<tag:yaml.org,2002:str> 1", "a: !!map [1]", "a: !!seq [1]", "a: !!set {x, y}",
    # characters
    "\ufeffa: 1", "a: \u00e9", "a: \U0001f600", "a: \x07", "a: \x00", "a: \x7f", "a:\r\n  b: 1\r\n", "a: 1\rb: 2", "a: \u00a0b",
]

GOOD = "server_name: example.org\nreport_stats: false\n"

# Directories, and what Synapse is started with. A text is a file, None a directory, and what begins with -> a link.
TREES = [
    ("a file", {"homeserver.yaml": GOOD}, ["homeserver.yaml"]),
    ("no file", {}, ["homeserver.yaml"]),
    ("Debian's", {"homeserver.yaml": GOOD + "a: 1\n", "conf.d/server_name.yaml": "server_name: other\n", "conf.d/x.yaml": "b: 2\n"}, ["homeserver.yaml", "conf.d/"]),
    ("the other way round", {"homeserver.yaml": GOOD, "conf.d/a.yaml": "server_name: other\n"}, ["conf.d", "homeserver.yaml"]),
    ("no directory", {"homeserver.yaml": GOOD}, ["homeserver.yaml", "conf.d"]),
    ("an empty directory", {"homeserver.yaml": GOOD, "conf.d": None}, ["homeserver.yaml", "conf.d"]),
    ("the order of names", {"homeserver.yaml": GOOD, "conf.d/10.yaml": "a: 10\n", "conf.d/9.yaml": "a: 9\n", "conf.d/B.yaml": "b: B\n", "conf.d/a.yaml": "b: a\n", "conf.d/\u00e9.yaml": "c: 1\n", "conf.d/z.yaml": "c: 2\n"}, ["homeserver.yaml", "conf.d"]),
    ("whole keys", {"homeserver.yaml": GOOD + "a: {b: 1, c: 2}\n", "conf.d/a.yaml": "a: {b: 3}\n"}, ["homeserver.yaml", "conf.d"]),
    ("other endings", {"homeserver.yaml": GOOD, "conf.d/a.yml": "a: 1\n", "conf.d/a.YAML": "a: 2\n", "conf.d/a.yaml~": "a: 3\n", "conf.d/a.yaml.dpkg-old": "a: 4\n", "conf.d/README": "a: 5\n"}, ["homeserver.yaml", "conf.d"]),
    ("hidden files", {"homeserver.yaml": GOOD, "conf.d/.a.yaml": "a: 1\n", "conf.d/.yaml": "b: 1\n"}, ["homeserver.yaml", "conf.d"]),
    ("a directory among them", {"homeserver.yaml": GOOD, "conf.d/sub.yaml/a.yaml": "a: 1\n", "conf.d/sub/a.yaml": "a: 2\n"}, ["homeserver.yaml", "conf.d"]),
    ("links", {"homeserver.yaml": GOOD, "x/a": "a: 1\n", "x/d/b.yaml": "b: 1\n", "conf.d/a.yaml": "->../x/a", "conf.d/d.yaml": "->../x/d", "conf.d/e.yaml": "->nowhere"}, ["homeserver.yaml", "conf.d"]),
    ("a link to a directory", {"homeserver.yaml": GOOD, "x/a.yaml": "a: 1\n", "conf.d": "->x"}, ["homeserver.yaml", "conf.d"]),
    ("a name like a pattern", {"homeserver.yaml": GOOD, "q[1]/a.yaml": "a: 1\n", "q1/a.yaml": "a: 2\n"}, ["homeserver.yaml", "q[1]"]),
    ("a file like a pattern", {"homeserver.yaml": GOOD, "conf.d/a[1]*.yaml": "a: 1\n"}, ["homeserver.yaml", "conf.d"]),
    ("a file of another ending", {"settings": GOOD}, ["settings"]),
    ("twice", {"a.yaml": GOOD + "a: 1\n", "b.yaml": "a: 2\n"}, ["a.yaml", "b.yaml", "a.yaml"]),
    ("a list", {"homeserver.yaml": GOOD, "conf.d/a.yaml": "- a: 1\n", "conf.d/b.yaml": "b: 1\n"}, ["homeserver.yaml", "conf.d"]),
    ("a text", {"homeserver.yaml": GOOD, "conf.d/a.yaml": "nothing\n"}, ["homeserver.yaml", "conf.d"]),
    ("comments alone", {"homeserver.yaml": GOOD, "conf.d/a.yaml": "# a: 1\n"}, ["homeserver.yaml", "conf.d"]),
    ("an empty file", {"homeserver.yaml": GOOD, "conf.d/a.yaml": ""}, ["homeserver.yaml", "conf.d"]),
    ("two documents", {"homeserver.yaml": GOOD, "conf.d/a.yaml": "a: 1\n---\nb: 1\n"}, ["homeserver.yaml", "conf.d"]),
    ("a fault", {"homeserver.yaml": GOOD, "conf.d/a.yaml": "a: 1\n b: 1\n"}, ["homeserver.yaml", "conf.d"]),
]


def shown(value):
    """Makes of a value what JSON can tell apart."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return {"int": str(value)}
    if isinstance(value, float):
        return {"float": repr(value)}
    if isinstance(value, list):
        return [shown(item) for item in value]
    if isinstance(value, dict):
        return {"map": [[shown(key), shown(item)] for key, item in value.items()]}
    return {"other": True}


def read(text):
    try:
        return {"text": text, "value": shown(yaml.safe_load(text))}
    except yaml.MarkedYAMLError as e:
        return {"text": text, "line": e.problem_mark.line + 1}
    except Exception:  # of Python's own, where it makes a value: it knows no line
        return {"text": text, "line": 0}


def read_tree(name, tree, paths):
    told = {"name": name, "tree": tree, "paths": paths}
    with tempfile.TemporaryDirectory() as top, contextlib.chdir(top):
        for path, content in tree.items():
            os.makedirs(path if content is None else os.path.dirname(path) or ".", exist_ok=True)
            if content is not None and content.startswith("->"):
                os.symlink(content[2:], path)
            elif content is not None:
                with open(path, "w") as file:
                    file.write(content)
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                files = _base.find_config_files(paths)
                keys = {}
                if hasattr(_base, "read_config_files"):
                    keys = _base.read_config_files(files)
                else:  # as Synapse 0.34.0 does before anything else
                    for file in files:
                        keys.update(_base.Config.read_config_file(file))
            except Exception:
                return told
    return dict(told, files=[os.path.normpath(file) for file in files], keys=shown(keys))


def lines(rows):
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]"


print('{"documents": %s,\n"trees": %s}' % (lines(map(read, DOCUMENTS)), lines(read_tree(*row) for row in TREES)))
