"""Conditions under which an autoencoder was trained, as its configuration states them.

A latent means something only for the activations that the autoencoder was trained on: of one model, processed in one
way, with or without a BOS before the text. SAELens writes these conditions beside the settings of the computation.
Every key of a configuration is in one of the tables here, and docs/conditions.md explains each: *used* keys decide the
computation, *checked* keys are compared with the model or the prompts, *irrelevant* keys describe the training only. A
key in no table may come from a later version and change the numbers, so it is named in a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dreamy_lens.errors import FeatureError, SAEError, quoted, shorten, warn

CONDITIONS = (
    "model_name",
    "model_from_pretrained_kwargs",
    "model_kwargs",
    "prepend_bos",
    "normalize_activations",
    "context_size",
)
"""Conditions that can be ignored on request; each has the name of its key."""

USED = frozenset(
    "activation_fn activation_fn_kwargs activation_fn_str apply_b_dec_to_input architecture d_in d_out d_sae "
    "finetuning_scaling_factor hook_head_index hook_name hook_name_out hook_point hook_point_head_index k metadata "
    "norm_scaling_factor rescale_acts_by_decoder_norm reshape_activations".split()
)

CHECKED = frozenset(
    "context_size exclude_special_tokens hook_head_index_out hook_layer hook_point_layer model_from_pretrained_kwargs "
    "model_kwargs model_name normalize_activations prepend_bos sae_lens_training_version sae_lens_version seqpos_slice "
    "use_chat_formatting".split()
)

IRRELEVANT = frozenset(
    "act_store_device activations_mixing_fraction adam_beta1 adam_beta2 autocast autocast_lm aux_loss_coefficient "
    "b_dec_init_method cached_activations_path checkpoint_path compile_llm compile_sae dataset_path "
    "dataset_trust_remote_code dead_feature_threshold dead_feature_window decoder_heuristic_init decoder_init_norm "
    "decoder_orthogonal_init device disable_concat_sequences dtype eval_batch_size_prompts eval_every_n_wandb_logs "
    "expansion_factor feature_sampling_window finetuning_method finetuning_tokens from_pretrained_path hf_hook_name "
    "hf_hook_name_out hook_eval hook_layer_out hook_point_eval init_encoder_as_decoder_transpose is_dataset_tokenized "
    "jumprelu_bandwidth jumprelu_init_threshold jumprelu_sparsity_loss_mode jumprelu_ste_to_input jumprelu_tanh_scale "
    "l0 l0_coefficient l0_warm_up_steps l1_coefficient l1_warm_up_steps llm_compilation_mode llm_device "
    "log_activations_store_to_wandb log_optimizer_state_to_wandb log_to_wandb log_weights_to_wandb logger lp_norm lr "
    "lr_decay_steps lr_end lr_scheduler_name lr_warm_up_steps matryoshka_widths model_class_name "
    "mse_loss_normalization n_batches_for_norm_estimate n_batches_in_buffer n_checkpoints n_eval_batches n_eval_seqs "
    "n_restart_cycles n_shuffles_final n_shuffles_in_entire_dir n_shuffles_with_last_section neuronpedia_id "
    "new_cached_activations_path noise_scale normalize_sae_decoder num_dead_features output_path "
    "pre_act_loss_coefficient prefetch_llm_batches resume resume_from_checkpoint run_name sae_compilation_mode "
    "save_final_checkpoint scale_sparsity_penalty_by_decoder_norm seed sequence_separator_token "
    "shuffle_every_n_buffers store_batch_size store_batch_size_prompts streaming target_l0 tokens_per_buffer "
    "topk_threshold_lr train_batch_size train_batch_size_tokens training_architecture training_architecture_details "
    "training_tokens use_cached_activations use_ghost_grads use_matryoshka_aux_loss use_sparse_activations verbose "
    "wandb_entity wandb_id wandb_log_frequency wandb_project".split()
)

HARMLESS_LOADING = frozenset(
    "attn_implementation cache_dir center_unembed default_padding_side default_prepend_bos device device_map dtype "
    "first_n_layers local_files_only low_cpu_mem_usage move_to_device n_ctx n_devices token torch_dtype "
    "trust_remote_code use_auth_token".split()
)
"""Arguments of model loading that change no activation, or only its precision: center_unembed moves only the logits."""

OTHER_WEIGHTS = frozenset(
    "checkpoint_index checkpoint_value load_in_4bit load_in_8bit quantization_config revision".split()
)
"""Arguments of model loading that select or round the weights, which a loaded model does not show."""

UNPROCESSED = {
    "model_from_pretrained_kwargs": {"center_writing_weights": False, "fold_ln": False, "fold_value_biases": False}
}
"""What holds for libraries that hook modules of a plain Hugging Face model, though their files do not say it."""

_SAID: set[tuple[Any, ...]] = set()


@dataclass(frozen=True)
class Conditions:
    """Conditions that a configuration states; None stands for a condition that it does not state.

    Attributes:
        whose: Subject of messages, as in "The SAE folder x".
        model_name: Name of the model.
        centred: True if the model's writing weights were centred, False if not.
        centred_by_default: True if the configuration does not say so, but comes from a version of SAELens that centred
            them by default.
        folds_norms: True if the weights of layer norms were folded into the following layers.
        folds_value_biases: True if the biases of the attention's values were folded into its output bias.
        refactored: True if the attention's matrices were factored anew.
        other_weights: Loading arguments that select other weights, as text.
        prepend_bos: True if a BOS stood before each text, False if not.
        context_size: Number of tokens of the rows.
        positions: Slice of the row whose activations were used, as (start, stop, step).
        no_special: True if the activations of special tokens were left out.
        chat: True if the texts were in a chat's form.
        ignored: Conditions that are ignored on request.
    """

    whose: str
    model_name: str | None = None
    centred: bool | None = None
    centred_by_default: bool = False
    folds_norms: bool | None = None
    folds_value_biases: bool | None = None
    refactored: bool = False
    other_weights: str = ""
    prepend_bos: bool | None = None
    context_size: int | None = None
    positions: tuple[int | None, int | None, int | None] | None = None
    no_special: bool = False
    chat: bool = False
    ignored: tuple[str, ...] = ()

    def remedy(self, name: str) -> str:
        """Return the end of an error message: how to ignore a condition."""
        return (
            f'If it does not matter here, say so: load_sae(..., ignore="{name}") or sae_latent(..., ignore="{name}").'
        )

    def say_once(self, about: str, sentence: str, whatever: bool = False) -> None:
        """Warn about something that cannot be decided; the same autoencoder says the same sentence only once.

        Args:
            about: Subject of the sentence.
            sentence: Sentence without its subject.
            whatever: Whether another sentence about the same is not said either, because only a number differs.
        """
        key = (self.whose, about, "" if whatever else sentence)
        if key not in _SAID:
            _SAID.add(key)
            warn(f"{self.whose} {sentence}", UserWarning)

    def check_bos(self, has_bos: bool, tokenizer_has_bos: bool) -> None:
        """Raise SAEError if rows have a BOS and the training had none, or the other way round."""
        if self.prepend_bos is None or self.prepend_bos is has_bos or "prepend_bos" in self.ignored:
            return
        with_bos, are = ("with", "have none") if self.prepend_bos else ("without", "have one")
        if self.prepend_bos and not tokenizer_has_bos:
            raise SAEError(
                f"{self.whose} was trained with a BOS before each text (prepend_bos: true), and this model's tokenizer "
                f"has no BOS. {self.remedy('prepend_bos')}"
            )
        raise SAEError(
            f"{self.whose} was trained {with_bos} a BOS before each text (prepend_bos: "
            f"{str(self.prepend_bos).lower()}), and the prompts here {are}: use prepend_bos={self.prepend_bos}. "
            f"{self.remedy('prepend_bos')}"
        )

    def check_rows(self, total: int, place: int | None, last: int, is_bos: bool) -> None:
        """Refuse positions after the end of the training's rows, and warn once about others that were no part of it.

        Args:
            total: Number of tokens of a row, with BOS and template.
            place: Index in the row of the position that is read; None for a slice of positions.
            last: Index in the row of the last position that is read.
            is_bos: True if the BOS is at that position.

        Raises:
            SAEError: The training's rows ended before the last position.
        """
        size = None if "context_size" in self.ignored else self.context_size
        if size is not None and last >= size:
            raise SAEError(
                f"{self.whose} was trained on rows of {size} tokens (context_size), and rows here have {total}, of "
                f"which position {last} is read: no latent was trained there. Use prompts or windows that are shorter "
                f"by {last - size + 1}; a row counts the BOS and the template too. {self.remedy('context_size')}"
            )
        if size is not None and total > size:
            self.say_once(
                "context",
                f"was trained on rows of {size} tokens (context_size), and rows here have {total}, though no position "
                "after the end of such a row is read.",
                whatever=True,
            )
        if self.positions is not None and place is not None:
            self._check_place(self.positions, place)
        if self.no_special and is_bos:
            self.say_once(
                "special",
                "was trained without the activations of special tokens (exclude_special_tokens): latents of the BOS "
                "are computed, and were never trained.",
            )

    def _check_place(self, positions: tuple[int | None, int | None, int | None], place: int) -> None:
        """Warn once if a place in the row was not part of the training, or if the slice cannot tell."""
        size, (start, stop, _) = self.context_size, positions
        row = "a row" if size is None else f"a row of {size}"
        trained = f"was trained on the positions {_slice_text(positions)} of {row} (seqpos_slice)"
        if size is None and min(start or 0, stop or 0) < 0:
            self.say_once(
                "positions",
                f"{trained}, counted from the end of rows whose length the configuration does not state "
                f"(context_size): whether position {place} of the row is among them cannot be told. State "
                "context_size.",
            )
        # Without an end that is counted from the row's end, a longer row has the same positions and more.
        elif place not in range(place + 1 if size is None else size)[slice(*positions)]:
            self.say_once(
                "positions",
                f"{trained}, and position {place} of the row is not among them: it is computed, and was never trained.",
            )


def read_conditions(fields: Mapping[str, Any], whose: str, ignored: tuple[str, ...] = ()) -> Conditions:
    """Return the conditions that a configuration states.

    Args:
        fields: Keys of the configuration and of its metadata, in one mapping.
        whose: Subject of messages, as in "The SAE folder x".
        ignored: Names of conditions that are not kept.

    Raises:
        SAEError: A condition has a value that it cannot have, or asks for something that dreamy_lens cannot keep.
    """
    name = typed(fields, "model_name", str, whose)
    loading = typed(fields, "model_from_pretrained_kwargs", Mapping, whose) or {}
    if "model_from_pretrained_kwargs" in ignored:
        loading = {}
    flags = {key: typed(loading, key, bool, f"{whose}, in model_from_pretrained_kwargs,") for key in _FLAGS}
    known = HARMLESS_LOADING | OTHER_WEIGHTS | set(_FLAGS)
    strange = {k: v for k, v in loading.items() if k not in known and v not in (None, False, {}, [])}
    passes = typed(fields, "model_kwargs", Mapping, whose) or {}
    conditions = Conditions(
        whose=whose,
        model_name=name or None,
        centred=flags["center_writing_weights"],
        folds_norms=flags["fold_ln"],
        folds_value_biases=flags["fold_value_biases"],
        refactored=bool(flags["refactor_factored_attn_matrices"]),
        other_weights=", ".join(
            f"{k}={shorten(str(v))}"
            for k, v in loading.items()
            if k in OTHER_WEIGHTS and v not in (None, False, "main")
        ),
        prepend_bos=typed(fields, "prepend_bos", bool, whose),
        context_size=_context(typed(fields, "context_size", int, whose)),
        positions=_positions(fields.get("seqpos_slice"), whose),
        no_special=bool(fields.get("exclude_special_tokens")),
        chat=bool(typed(fields, "use_chat_formatting", bool, whose)),
        ignored=ignored,
    )
    for key, arguments, what in (
        ("model_from_pretrained_kwargs", strange, "a model loaded with"),
        ("model_kwargs", passes, "passes of the model with the arguments"),
    ):
        if arguments and key not in ignored:
            listed = ", ".join(f"{shorten(str(k))}={shorten(str(v))}" for k, v in list(arguments.items())[:5])
            raise SAEError(
                f"{whose} was trained on {what} {listed}, and dreamy_lens does not know what that changes ({key}). "
                f"{conditions.remedy(key)}"
            )
    version = None if "model_from_pretrained_kwargs" in ignored else _version(fields)
    if version is None:
        return conditions
    if version < _PLAIN_SINCE:
        return replace(conditions, centred_by_default=conditions.centred is None)
    unstated = dict.fromkeys(("centred", "folds_norms", "folds_value_biases"), False)
    return replace(conditions, **{name: value for name, value in unstated.items() if getattr(conditions, name) is None})


_PLAIN_SINCE = (3, 19, 2)
"""Version from which SAELens processes no weights unless it is told to. Before, it centred and folded by default."""

_FLAGS = ("center_writing_weights", "fold_ln", "fold_value_biases", "refactor_factored_attn_matrices")


def unknown_keys(fields: Mapping[str, Any], known: Iterable[str] = USED | CHECKED | IRRELEVANT) -> tuple[str, ...]:
    """Return the keys that dreamy_lens does not know and that have a value, sorted.

    Args:
        fields: Configuration.
        known: Keys that are known; by default those of SAELens.
    """
    known = frozenset(known)
    return tuple(
        sorted(str(key) for key, value in fields.items() if key not in known and value not in (None, False, {}))
    )


def warn_of_unknown_keys(unknown: Sequence[str], conditions: Conditions) -> None:
    """Warn once about keys that dreamy_lens does not know and that have a value."""
    if unknown:
        listed = ", ".join(map(shorten, unknown[:8])) + (", …" if len(unknown) > 8 else "")
        conditions.say_once(
            "keys", f"has settings that dreamy_lens does not know, and computes as if they were absent: {listed}."
        )


def chosen_conditions(ignore: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return the names of conditions to ignore, in the order of `CONDITIONS`.

    Args:
        ignore: Names, or one text with commas or spaces between names.

    Raises:
        FeatureError: There is no condition of such a name.
    """
    if ignore is None:
        return ()
    names = re.split(r"[,\s]+", ignore.strip()) if isinstance(ignore, str) else list(ignore)
    wrong = [name for name in names if name not in CONDITIONS and name != ""]
    if wrong:
        raise FeatureError(
            f"There is no condition {quoted(wrong[0])} of an autoencoder to ignore; there are {', '.join(CONDITIONS)}."
        )
    return tuple(name for name in CONDITIONS if name in names)


def typed(fields: Mapping[str, Any], key: str, kind: Any, whose: str) -> Any:
    """Return a setting of a configuration, or None if it is absent or null.

    Raises:
        SAEError: The setting is of another type. A text "false" is not a false value, so nothing is converted.
    """
    value = fields.get(key)
    if value is None or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
        return value
    wanted = {str: "a text", bool: "true or false", int: "a whole number", Mapping: "an object"}.get(kind, str(kind))
    raise SAEError(f"{whose} has {key} = {quoted(value)}, where {wanted} is needed. Correct it in the configuration.")


def _context(size: int | None) -> int | None:
    return size if size is not None and size > 0 else None


def _positions(value: Any, whose: str) -> tuple[int | None, int | None, int | None] | None:
    if value is None:
        return None
    parts = list(value) if isinstance(value, (list, tuple)) else [value]
    right = all(x is None or (isinstance(x, int) and not isinstance(x, bool)) for x in parts)
    if not right or not 1 <= len(parts) <= 3 or (len(parts) == 3 and parts[2] is not None and parts[2] < 1):
        raise SAEError(
            f"{whose} has seqpos_slice = {quoted(value)}, where [start, stop, step], [start, stop] or [stop] is "
            "needed: whole numbers, or null for an end that is open, and a step of at least 1. Correct it in the "
            "configuration."
        )
    start, stop, step = [None, parts[0], None] if len(parts) == 1 else [*parts, None][:3]
    return None if (start or 0) == 0 and stop is None and step in (None, 1) else (start, stop, step)


def _slice_text(parts: tuple[int | None, int | None, int | None]) -> str:
    start, stop, step = ("" if x is None else str(x) for x in parts)
    return f"{start}:{stop}" + (f":{step}" if step else "")


def _version(fields: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the version of SAELens that trained the autoencoder, or else that wrote the files; None if not stated."""
    text = fields.get("sae_lens_training_version") or fields.get("sae_lens_version")
    found = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", text) if isinstance(text, str) else None
    return None if found is None else tuple(int(part or 0) for part in found.groups())
