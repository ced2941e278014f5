#!/usr/bin/env python3
"""Checks an export of the event log, written from docs/EVENTS.md alone, with nothing but the standard library.

    verify.py EXPORT KEYRING

Prints what it finds and ends with 0 when the log is whole, 1 when it is not, 2 when it cannot be read.
"""

import base64
import hashlib
import hmac
import json
import sys

ROLES = ["identity", "logging", "catalog", "assistants", "messaging", "runtime", "integrations", "models", "network",
         "export"]


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def hkdf(master, role):
    """HKDF-SHA-256 (RFC 5869) with one block of output."""
    pseudorandom = hmac.digest(b"symbia", master, "sha256")
    return hmac.digest(pseudorandom, f"symbia/v1/{role}".encode() + b"\x01", "sha256")


def derive(path):
    with open(path, encoding="utf-8") as file:
        ring = json.load(file)
    return {f"{key['kid']}.{role}": hkdf(decode(key["secret"]), role)
            for key in ring["keys"] if key["status"] != "retired" for role in ROLES}


def number(value):
    """A number as ECMAScript writes it (RFC 8785 §3.2.2.3)."""
    if isinstance(value, int) and abs(value) <= 2**53:
        return str(value)
    value = float(value)
    if value == 0:
        return "0"
    sign, text = ("-", repr(-value)) if value < 0 else ("", repr(value))
    mantissa, _, exponent = text.partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    # The value is 0.digits × 10^point.
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return sign + digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    power = point - 1
    rest = "." + digits[1:] if count > 1 else ""
    return f"{sign}{digits[0]}{rest}e{'+' if power > 0 else '-'}{abs(power)}"


def canonical(value):
    """RFC 8785."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    members = sorted(value.items(), key=lambda member: member[0].encode("utf-16-be"))
    return "{" + ",".join(f"{canonical(name)}:{canonical(member)}" for name, member in members) + "}"


def is_signed(keys, document, role):
    """Whether `hmac` is the signature of the rest of the document by the role's key."""
    kid = document.get("hmackid", "")
    if not kid.endswith("." + role) or kid not in keys:
        return False
    rest = {name: member for name, member in document.items() if name != "hmac"}
    expected = encode(hmac.digest(keys[kid], canonical(rest).encode(), "sha256"))
    return hmac.compare_digest(expected, document.get("hmac", ""))


class Audit:
    def __init__(self, keys):
        self.keys, self.problems, self.events, self.messages = keys, [], 0, 0
        self.chains, self.streams = {}, {}

    def problem(self, record, text):
        self.problems.append(f"{record['service']}:{record['sequence']} {text}")

    def message(self, record):
        self.messages += 1
        stream = self.streams.setdefault(record["service"], {"last": 0, "events": 0, "hash": bytes(32)})
        if record["sequence"] != stream["last"] + 1:
            self.problem(record, f"follows sequence {stream['last']}: messages are missing or out of order")
        stream["last"] = record["sequence"]
        payload = record["payload"].encode() if "payload" in record else base64.b64decode(record["payloadBase64"])
        try:
            content = json.loads(payload)
            events = content if isinstance(content, list) else [content]
            if not events or not all(isinstance(event, dict) for event in events):
                raise ValueError("it holds no event")
        except ValueError as error:
            self.problem(record, f"cannot be read: {error}")
            events = []
        for event in events:
            self.event(record, stream, event)

    def event(self, record, stream, event):
        digest = hashlib.sha256(canonical(event).encode()).digest()
        stream["events"] += 1
        stream["hash"] = hashlib.sha256(stream["hash"] + digest).digest()
        name = f"event {event.get('id')}"
        if event.get("source") != f"symbia/{record['service']}" or not is_signed(self.keys, event, record["service"]):
            return self.problem(record, f"{name}: the signature does not match")
        subject = ".".join(["symbia", "evt", record["service"], event["orgid"], event["aggregatetype"],
                            event["aggregateid"]])
        if subject != record["subject"]:
            return self.problem(record, f"{name}: belongs under {subject}")
        self.events += 1
        version, previous = self.chains.get(subject, (0, "genesis"))
        if (event["aggregateversion"], event["prevhash"]) != (version + 1, previous):
            self.problem(record, f"{name}: version {event['aggregateversion']} of {subject} does not follow "
                                 f"version {version}")
        if event["aggregateversion"] > version:
            self.chains[subject] = (event["aggregateversion"], encode(digest))

    def footer(self, heads):
        if not is_signed(self.keys, heads, "export"):
            self.problems.append("the signature of the heads does not match")
        for head in heads["heads"]:
            seen = self.streams.get(head["service"], {"last": 0, "events": 0, "hash": bytes(32)})
            if (seen["last"], seen["events"], encode(seen["hash"])) != (head["sequence"], head["events"], head["hash"]):
                self.problems.append(f"{head['service']}: the stream is not the one that was exported")


def main(export, ring):
    audit, heads = Audit(derive(ring)), None
    with open(export, encoding="utf-8", newline="\n") as lines:
        header = json.loads(next(lines, "{}"))
        if (header.get("format"), header.get("version")) != ("symbia-log-export", 1):
            print("this is no log export that can be read here")
            return 2
        for line in lines:
            record = json.loads(line)
            if "footer" in record:
                heads = record["footer"]
            else:
                audit.message(record)
    if heads is None:
        audit.problems.append("the export was cut off: it has no heads")
    else:
        audit.footer(heads)
    print("\n".join(audit.problems + [f"{audit.messages} messages, {audit.events} events verified, "
                                      f"{len(audit.chains)} aggregates, {len(audit.problems)} problems"]))
    return 1 if audit.problems else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2]))
