"""Trims a conversation with LangChain and LiteLLM, and says how long each takes.

Run by `cargo bench --bench history`, which gives {"messages": [...], "max_tokens": n} on standard input and reads a line of
JSON for each peer. Install them with `pip install -r benches/peers/history-requirements.txt`.

tiktoken downloads its vocabularies when they are first used. Where the sources of the Rust crate tiktoken-rs are at hand,
which bring the same files, they are taken from there instead.
"""

import glob
import hashlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time

MODEL = "gpt-4o"  # the newest that both know; the vocabulary is the one of gpt-5
RUNS = 15
SECONDS = 5  # at most, for one peer


def vocabularies(folder):
    """Puts the vocabularies where tiktoken looks for them: a file named by the sha1 of its address."""
    home = os.environ.get("CARGO_HOME", os.path.expanduser("~/.cargo"))
    for name in ("o200k_base", "cl100k_base"):
        found = glob.glob(f"{home}/registry/src/*/tiktoken-rs-*/assets/{name}.tiktoken")
        if not found:
            return False
        address = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
        shutil.copy(found[-1], os.path.join(folder, hashlib.sha1(address.encode()).hexdigest()))
    return True


def median_us(work):
    work()  # builds the vocabulary and whatever else is lazy
    times = []
    while len(times) < 3 or (len(times) < RUNS and sum(times) < SECONDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6


def langchain(messages, limit, count):
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, trim_messages

    kinds = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}
    roles = {"system": "system", "human": "user", "ai": "assistant"}
    theirs = [kinds[message["role"]](message["content"]) for message in messages]

    def counter(kept):
        return 3 + sum(count(roles[message.type], message.content) for message in kept)

    def work():
        return trim_messages(
            theirs, max_tokens=limit, strategy="last", token_counter=counter, include_system=True, start_on="human"
        )

    return work, lambda kept: [(roles[message.type], message.content) for message in kept]


def litellm(messages, limit, count):
    from litellm.utils import trim_messages

    def work():
        return trim_messages([dict(message) for message in messages], model=MODEL, max_tokens=limit, trim_ratio=1.0)

    return work, lambda kept: [(message["role"], message["content"]) for message in kept]


def main():
    given = json.load(sys.stdin)
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no look-up of prices on the network
    answers = sys.stdout
    # Libraries print; only our lines belong on standard output.
    sys.stdout = sys.stderr
    with tempfile.TemporaryDirectory() as folder:
        if "TIKTOKEN_CACHE_DIR" not in os.environ and vocabularies(folder):
            os.environ["TIKTOKEN_CACHE_DIR"] = os.environ["CUSTOM_TIKTOKEN_CACHE_DIR"] = folder
        for name, peer in (("LangChain trim_messages", langchain), ("LiteLLM trim_messages", litellm)):
            try:
                import tiktoken

                encoding = tiktoken.get_encoding("o200k_base")

                def count(role, text):
                    return 3 + len(encoding.encode(role)) + len(encoding.encode(text))

                work, pairs = peer(given["messages"], given["max_tokens"], count)
                kept = pairs(work())
                row = {"name": name, "median_us": median_us(work), "messages": len(kept)}
                row["tokens"] = 3 + sum(count(role, text) for role, text in kept)
            except ImportError as error:
                why = f"{error}; pip install -r benches/peers/history-requirements.txt"
                row = {"name": name, "why": why}
            except Exception as error:  # no network for a vocabulary, a changed interface
                row = {"name": name, "why": f"{type(error).__name__}: {error}"}
            print(json.dumps(row), file=answers, flush=True)


main()
