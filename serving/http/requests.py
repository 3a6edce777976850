"""What a client asked for, read from the body and headers of an OpenAI-compatible call.

Headers of ours, none of which changes what text may come:

x-aurora-domain    what figures, versions and pins know the request by (also ``metadata.domain``)
x-aurora-no-train  1: counted, but neither text nor hidden states are kept
x-aurora-control   1: decoded without speculation, like a control, but counted under the live version with lookahead 0,
                   since the control is drawn by lot. 0: never drawn for the control. Both: in a batch of its own, so
                   that the seconds of the two can be compared
x-aurora-steps     1: each chunk of a stream says what became of its tokens (serving/http/marks.py)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.engine.api import SamplingParams
from serving.http import fields
from serving.http.errors import ApiError
from serving.http.tokenizer import ChatTemplateError, TargetTokenizer, TooManyTokensError
from speculators.domain_names import CLIENTS_NAME

DEFAULT_DOMAIN = "default"
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's default for /v1/completions
MAX_SEED = 2**63 - 1

# Options that change the answer; what is listed asks for nothing and is fine.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "repetition_penalty": (1, 1.0),
    "top_k": (0, -1),
    "min_p": (0, 0.0),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "functions": ([],),
}


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation, ready for the engine."""

    prompt: tuple[int, ...]
    sampling: SamplingParams
    stop: tuple[str, ...]
    domain: str
    is_trace: bool  # False: x-aurora-no-train
    is_control: bool | None  # x-aurora-control; None: the lottery decides
    has_marks: bool  # x-aurora-steps
    is_stream: bool
    includes_usage: bool  # of a stream; otherwise usage is always there


@dataclass(frozen=True, slots=True)
class ServedTarget:
    """The target as the API names and limits it."""

    slug: str
    max_len: int  # prompt + generated tokens
    vocab_size: int
    tokenizer: TargetTokenizer

    @property
    def most_prompt_tokens(self) -> int:
        """At least one token is generated."""
        return self.max_len - 1


def read_completion(body: Any, headers: Mapping[str, str], target: ServedTarget) -> GenerationRequest:
    """A call of /v1/completions. Raises ApiError."""
    body = _checked(body, target)
    prompt = _prompt_tokens(body.get("prompt"), target)
    asked = fields.integer(body, "max_tokens", DEFAULT_COMPLETION_TOKENS, 1, 1 << 30)
    assert asked is not None
    if body.get("max_tokens") is None:
        asked = max(1, min(asked, target.max_len - len(prompt)))
    return _request(body, headers, prompt, asked, target)


def read_chat(body: Any, headers: Mapping[str, str], target: ServedTarget) -> GenerationRequest:
    """A call of /v1/chat/completions. Raises ApiError."""
    body = _checked(body, target)
    prompt = _chat_tokens(body, target)
    field = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    asked = fields.integer(body, field, max(1, target.max_len - len(prompt)), 1, 1 << 30)
    assert asked is not None
    return _request(body, headers, prompt, asked, target)


def _checked(body: Any, target: ServedTarget) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise ApiError(f"the body must be a JSON object, not {type(body).__name__}")
    model = body.get("model")
    if not isinstance(model, str):
        raise fields.refuse("model", model, f"{target.slug!r}")
    if model != target.slug:
        message = f"The model {model!r:.80} does not exist; this server has {target.slug!r}"
        raise ApiError(message, status=404, kind="not_found_error", param="model", code="model_not_found")
    fields.only_neutral(body, NEUTRAL)
    return body


def _request(
    body: dict[str, Any], headers: Mapping[str, str], prompt: tuple[int, ...], max_tokens: int, target: ServedTarget
) -> GenerationRequest:
    if len(prompt) + max_tokens > target.max_len:
        raise _too_long(target, f"{len(prompt)} in the prompt and {max_tokens} to generate were asked for")
    is_stream, stop = fields.boolean(body, "stream"), fields.stop_strings(body)
    sampling = SamplingParams(
        max_tokens=max_tokens,
        temperature=fields.number(body, "temperature", 1.0, 0.0, 2.0),
        top_p=_top_p(body),
        seed=fields.integer(body, "seed", None, -MAX_SEED - 1, MAX_SEED),
        ignore_eos=fields.boolean(body, "ignore_eos"),
    )
    return GenerationRequest(
        prompt=prompt,
        sampling=sampling,
        stop=stop,
        domain=_domain(body, headers),
        is_trace=headers.get("x-aurora-no-train", "").strip().lower() in ("", "0", "false"),
        is_control=fields.flag(headers, "x-aurora-control"),
        has_marks=_has_marks(headers, is_stream, stop),
        is_stream=is_stream,
        includes_usage=_includes_usage(body, is_stream),
    )


def _too_long(target: ServedTarget, asked: str) -> ApiError:
    message = f"This model's maximum context length is {target.max_len} tokens, but {asked}"
    return ApiError(message, param="max_tokens", code="context_length_exceeded")


def _top_p(body: dict[str, Any]) -> float:
    top_p = fields.number(body, "top_p", 1.0, 0.0, 1.0)
    if top_p == 0.0:
        raise fields.refuse("top_p", top_p, "a number above 0, at most 1")
    return top_p


def _includes_usage(body: dict[str, Any], is_stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict) or not is_stream:
        raise fields.refuse("stream_options", options, 'an object, and only with "stream": true')
    return fields.boolean(options, "include_usage")


def _has_marks(headers: Mapping[str, str], is_stream: bool, stop: tuple[str, ...]) -> bool:
    """A stop string cuts the text within a token, and holds it back meanwhile: its marks would not add up to it."""
    has_marks = bool(fields.flag(headers, "x-aurora-steps"))
    if has_marks and (not is_stream or stop):
        raise fields.refuse("x-aurora-steps", headers["x-aurora-steps"], 'it with "stream": true and without stop')
    return has_marks


def _domain(body: dict[str, Any], headers: Mapping[str, str]) -> str:
    metadata = body.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise fields.refuse("metadata", metadata, "an object")
    source, domain = "x-aurora-domain", headers.get("x-aurora-domain")
    if domain is None and metadata:
        source, domain = "metadata.domain", metadata.get("domain")
    if domain is None:
        return DEFAULT_DOMAIN
    if not isinstance(domain, str) or not CLIENTS_NAME.fullmatch(domain):
        raise fields.refuse(source, domain, "1 to 64 of a-z, 0-9, _ . -")
    return domain


def _prompt_tokens(prompt: Any, target: ServedTarget) -> tuple[int, ...]:
    """``prompt``: a string or token ids; a list with one of these is unwrapped."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        fields.encodable("prompt", prompt)
        try:
            tokens = target.tokenizer.encode(prompt, target.most_prompt_tokens)
        except TooManyTokensError as error:
            raise _too_long(target, f"the prompt has {error}") from None
        if not tokens:
            raise fields.refuse("prompt", prompt, "text of at least one token")
        return tokens
    if isinstance(prompt, list) and prompt and all(type(t) is int and 0 <= t < target.vocab_size for t in prompt):
        return tuple(prompt)
    raise fields.refuse("prompt", prompt, f"one string, or one list of token ids from 0 to {target.vocab_size - 1}")


def _chat_tokens(body: dict[str, Any], target: ServedTarget) -> tuple[int, ...]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise fields.refuse("messages", messages, "a list of at least one message")
    plain = [_message(message, index) for index, message in enumerate(messages)]
    tools = body.get("tools") or None
    if tools is not None and not isinstance(tools, list):
        raise fields.refuse("tools", tools, "a list")
    try:
        return target.tokenizer.encode_chat(plain, tools, target.most_prompt_tokens)
    except TooManyTokensError as error:
        raise _too_long(target, f"the messages have {error}") from None
    except ChatTemplateError as error:
        raise ApiError(str(error), param="messages") from error


def _message(message: Any, index: int) -> dict[str, Any]:
    """A message with its content as one string: lists of text parts are joined."""
    where = f"messages[{index}]"
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise fields.refuse(where, message, "an object with a role and a content")
    fields.encodable(f"{where}.role", message["role"])
    content = message.get("content")
    if content is None or isinstance(content, str):
        fields.encodable(f"{where}.content", content or "")
        return {**message, "content": content or ""}
    is_parts = isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content
    )
    if not is_parts:
        raise fields.refuse(f"{where}.content", content, "a string or a list of text parts")
    text = "".join(part["text"] for part in content)
    fields.encodable(f"{where}.content", text)
    return {**message, "content": text}
