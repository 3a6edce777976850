"""Domain `extract_json`: read fields off records, or the facts off documentation, and write them as JSON."""

import json
import random
from collections.abc import Iterator

from serving.traffic.domains.base import Draft, RealDomain, Split, split_of
from serving.traffic.domains.machine_texts import Passage, passages
from serving.traffic.domains.records import Record, Value, draw_records
from serving.traffic.domains.wording import around, sentences

DOCUMENTATION_SHARE = 0.3

TASKS = (
    "Extract the data from this {k} as JSON.",
    "Read this {k} and return a JSON object.",
    "Turn this {k} into JSON.",
    "Write the facts of this {k} as one JSON object.",
    "Parse this {k} and answer in JSON.",
    "Convert this {k} to JSON for an API.",
)
STYLES = (
    "Answer with JSON only.",
    "Use numbers for numbers and strings for all else.",
    "Write it on one line.",
    "Do not add keys.",
    "Keep the order of the keys.",
    "Put it into a code block.",
    "Say in one sentence below it what the data are about.",
)
OF_DOCUMENTATION = (
    "title summary keywords",
    "topic summary audience",
    "subject facts warnings",
    "title terms questions",
    "summary inputs outputs",
    "name purpose limits keywords",
    "title difficulty summary tags",
    "topic verbs nouns summary",
)


class ExtractJson(RealDomain):
    """Answers are JSON."""

    name = "extract_json"

    def drafts(self, rng: random.Random, split: Split) -> Iterator[Draft]:
        documentation = passages(rng, split)
        while True:
            if rng.random() < DOCUMENTATION_SHARE:
                yield self._of_passage(rng, next(documentation))
                continue
            records = draw_records(rng)
            source = "\n".join(record.text for record in records)
            if split_of(source) == split:
                yield self._of_records(rng, records, source)

    def _of_passage(self, rng: random.Random, passage: Passage) -> Draft:
        keys = rng.choice(OF_DOCUMENTATION).split()
        rng.shuffle(keys)
        request = self._request(rng, "documentation", keys)
        return Draft(passage.text, around(rng, request, f'"""\n{passage.text}\n"""'))

    def _of_records(self, rng: random.Random, records: list[Record], source: str) -> Draft:
        fields = records[0].fields
        keys = rng.sample(list(fields), rng.randint(3, len(fields)))
        answers: list[dict[str, Value]] = [{key: record.fields[key] for key in keys} for record in records]
        if len(records) == 1:
            request, reference = self._request(rng, records[0].kind, keys), json.dumps(answers[0], ensure_ascii=False)
        else:
            request = sentences(
                f"Turn each {records[0].kind} into a JSON object with the keys {', '.join(keys)}.",
                rng.choice(("Answer with a JSON array.", f"The array has {len(records)} objects.")),
                *rng.sample(STYLES, rng.randint(0, 1)),
            )
            reference = json.dumps(answers, ensure_ascii=False)
        return Draft(source, around(rng, request, source), reference)

    def _request(self, rng: random.Random, kind: str, keys: list[str]) -> str:
        listed = rng.choice(
            (
                f"Use the keys {', '.join(keys)}.",
                f"The keys are: {', '.join(keys)}.",
                f"Follow this template: {json.dumps(dict.fromkeys(keys, '...'))}",
                "Keys:\n" + "\n".join(f"- {key}" for key in keys) + "\n",
            )
        )
        return sentences(rng.choice(TASKS).format(k=kind), *rng.sample(STYLES, rng.randint(0, 2)), listed).rstrip()
