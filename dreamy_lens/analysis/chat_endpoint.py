"""An endpoint that answers prompts as the chat API of OpenAI does: a service, or a server on this machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dreamy_lens.errors import LLMError, SettingsError, quoted, shorten


@dataclass(frozen=True)
class ChatEndpoint:
    """Language model behind a chat API in the style of OpenAI. Calling it sends one prompt and returns the reply.

    It needs the library openai: `pip install "dreamy-lens[llm]"`. Nothing is sent before it is called.

    Attributes:
        url: Address of the API, such as `http://localhost:11434/v1` for a server on this machine.
        model: Name of the model, as the endpoint has it.
        api_key: Key of the endpoint; None takes the environment variable OPENAI_API_KEY, or none.
        temperature: Temperature of the replies.
        timeout: Most seconds to wait for a reply.
        retries: Number of times that a request is sent again after a failure of the network or the server.

    Raises:
        SettingsError: The address is not one of HTTP, or there is no name of a model.
        LLMError: On a call: the library is missing, or the endpoint does not answer or answers with an error.

    >>> ChatEndpoint("http://localhost:11434/v1", "llama3.2").name
    'llama3.2 at http://localhost:11434/v1'
    """

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    temperature: float = 0.0
    timeout: float = 60.0
    retries: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.url, str) or not self.url.startswith(("http://", "https://")):
            raise SettingsError(
                f"The endpoint is {quoted(self.url)}; it is an address of HTTP that ends before /chat/completions, "
                "such as http://localhost:11434/v1."
            )
        if not isinstance(self.model, str) or not self.model:
            raise SettingsError(
                f"The endpoint {self.url} needs the name of a model: llm_model=..., or ChatEndpoint(url, model)."
            )

    @property
    def name(self) -> str:
        """Name of the model and its place, for results."""
        return f"{self.model} at {self.url}"

    def __call__(self, prompt: str) -> str:
        """Send a prompt as the only message of a user, and return the reply."""
        try:
            import openai
        except ImportError:
            raise LLMError(
                'An endpoint is asked by the library openai, which is not installed: pip install "dreamy-lens[llm]". '
                "Or give llm= a function of your own that takes a prompt and returns a text."
            ) from None
        import os

        key = self.api_key or os.environ.get("OPENAI_API_KEY") or "none"
        client = openai.OpenAI(base_url=self.url, api_key=key, timeout=self.timeout, max_retries=self.retries)
        try:
            with client:
                reply: Any = client.chat.completions.create(
                    model=self.model,
                    messages=[{"role": "user", "content": prompt}],
                    temperature=self.temperature,
                )
        except openai.APITimeoutError:
            raise LLMError(f"{self.name} did not answer in {self.timeout:g} s. Raise timeout=, or try later.") from None
        except openai.APIConnectionError as error:
            why = error.__cause__ or error
            raise LLMError(f"{self.url} cannot be reached: {shorten(str(why), 200)}.") from None
        except openai.APIStatusError as error:
            remedy = {401: " Give its key: OPENAI_API_KEY or api_key=.", 404: " Is the address that of the API (/v1)?"}
            why = shorten(" ".join(str(error.message).split()), 300)
            raise LLMError(f"{self.name} refused: {why}.{remedy.get(error.status_code, '')}") from None
        except (openai.OpenAIError, ValueError) as error:
            raise LLMError(f"{self.name} gave no reply that can be read: {shorten(str(error), 300)}.") from None
        choices = getattr(reply, "choices", None)
        content = getattr(getattr(choices[0], "message", None), "content", None) if choices else None
        if not isinstance(content, str):
            if isinstance(reply, str):  # a page of a web server in place of the API
                return reply
            raise LLMError(f"{self.name} gave a reply without a text. Try another model, or ask again.")
        return content
