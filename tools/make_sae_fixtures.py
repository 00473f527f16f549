"""Write the dictionaries of tests/features/released with the libraries that release such files, and what they compute.

Each library needs an environment of its own, because it cannot be installed beside the package's dependencies:

    python3 -m venv v_sl && v_sl/bin/pip install torch==2.13.0 sae-lens==6.54.0 transformer-lens==3.9.0
    python3 -m venv v_sp && v_sp/bin/pip install torch==2.13.0 eai-sparsify==1.3.3
    python3 -m venv v_dl && v_dl/bin/pip install torch==2.13.0 dictionary-learning==0.1.0

    v_sl/bin/python tools/make_sae_fixtures.py saelens gemma_scope gemma_scope_2 circuit_tracer releases
    v_sp/bin/python tools/make_sae_fixtures.py sparsify
    v_dl/bin/python tools/make_sae_fixtures.py dictionary_learning

Every folder of a dictionary then has its files as the library wrote them, and `expected.safetensors`: activations `x`,
the library's own `latents` for them, and the `decoder` [d_sae, d_out], as what the library's `decode` adds for each
latent. Files of Gemma Scope and circuit-tracer are not written by SAELens, which reads them: random ones stand here.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

OUT = Path(__file__).resolve().parents[1] / "tests" / "features" / "released"
D_IN, D_SAE, D_OUT, ROWS = 8, 16, 8, 6
HOOK = "blocks.1.hook_resid_post"


def shaken(module: torch.nn.Module, seed: int = 0) -> Any:
    """Give every parameter and every threshold random numbers: zeros and ones would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator))
            if name == "threshold":
                parameter.abs_()
        for name, buffer in module.named_buffers():
            if "threshold" in name:
                buffer.fill_(0.4)
    return module.eval()


def rows(width: int = D_IN) -> torch.Tensor:
    """Return the activations that are encoded."""
    return 1.5 * torch.randn(ROWS, width, generator=torch.Generator().manual_seed(9))


def expect(folder: Path, encode: Callable[[torch.Tensor], Any], decode: Any, width: int = D_IN, x: Any = None) -> None:
    """Write what a library computes."""
    from safetensors.torch import save_file

    x = rows(width) if x is None else x
    with torch.no_grad():
        latents = encode(x)
        units = torch.eye(latents.shape[-1])
        decoder = decode(units) - decode(torch.zeros_like(units))
    print(f"{folder.relative_to(OUT)}: {(latents > 0).float().mean():.2f} of the latents are on")
    assert 0.02 < (latents > 0).float().mean() < 0.98
    content = {"x": x, "latents": latents.float(), "decoder": decoder.float()}
    save_file({name: t.detach().contiguous() for name, t in content.items()}, folder / "expected.safetensors")


def fresh(*parts: str) -> Path:
    """Return a new empty folder."""
    folder = OUT.joinpath(*parts)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# SAELens.


def saelens() -> None:
    """Every architecture, every normalisation, and the end of a training with BatchTopK."""
    import sae_lens as sl

    metadata = {"hook_name": HOOK, "model_name": "gpt2", "prepend_bos": True, "context_size": 64}
    metadata["model_from_pretrained_kwargs"] = {"center_writing_weights": False}
    given: dict[str, Any] = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "device": "cpu"}
    norms = ("none", "constant_norm_rescale", "layer_norm")
    kinds: dict[str, tuple[str, str, dict[str, Any]]] = {
        **{f"standard_{norm}": ("StandardSAE", "StandardSAEConfig", {"normalize_activations": norm}) for norm in norms},
        "standard_hook_z": ("StandardSAE", "StandardSAEConfig", {"reshape_activations": "hook_z"}),
        "gated": ("GatedSAE", "GatedSAEConfig", {}),
        "jumprelu": ("JumpReLUSAE", "JumpReLUSAEConfig", {"apply_b_dec_to_input": False}),
        "topk": ("TopKSAE", "TopKSAEConfig", {"k": 4}),
        "topk_rescaled": ("TopKSAE", "TopKSAEConfig", {"k": 4, "rescale_acts_by_decoder_norm": True}),
        **{
            f"{name}": (f"{kind}", f"{kind}Config", {"d_out": D_OUT, "apply_b_dec_to_input": False})
            for name, kind in (
                ("transcoder", "Transcoder"),
                ("skip_transcoder", "SkipTranscoder"),
                ("jumprelu_transcoder", "JumpReLUTranscoder"),
                ("jumprelu_skip_transcoder", "JumpReLUSkipTranscoder"),
            )
        },
    }
    for name, (kind, config, more) in kinds.items():
        folder = fresh("saelens", name)
        sae = shaken(_named(sl, kind)(_named(sl, config)(**given, **more)))
        stated = dict(metadata)
        if "transcoder" in name:
            stated |= {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "blocks.1.hook_mlp_out"}
        if name == "standard_hook_z":
            stated["hook_name"] = "blocks.1.attn.hook_z"
        sae.cfg.metadata = sl.SAEMetadata(**stated) if hasattr(sl, "SAEMetadata") else _metadata(stated)
        sae.save_model(folder)
        x = rows().unflatten(-1, (2, 4)) if name == "standard_hook_z" else None
        again = sl.SAE.load_from_disk(folder, device="cpu")
        decode = again.decode
        if name == "standard_hook_z":

            def decode(latents: torch.Tensor, sae: Any = again) -> torch.Tensor:
                sae.encode(rows().unflatten(-1, (2, 4))[:1].expand(len(latents), 2, 4))
                return sae.decode(latents).flatten(-2)

        elif name in ("standard_constant_norm_rescale", "standard_layer_norm"):
            decode = None  # it depends on the last activation that was encoded: the rows of the decoder are it
        expect(folder, again.encode, decode or (lambda latents, sae=again: latents @ sae.W_dec), x=x)
    for name, kind, more in (
        ("batchtopk", "BatchTopKTrainingSAE", {}),
        ("batchtopk_rescaled", "BatchTopKTrainingSAE", {"rescale_acts_by_decoder_norm": True}),
        ("matryoshka", "MatryoshkaBatchTopKTrainingSAE", {"matryoshka_widths": [4, D_SAE]}),
    ):
        more = {"rescale_acts_by_decoder_norm": False} | more
        training = shaken(_named(sl, kind)(_named(sl, f"{kind}Config")(**given, k=4, **more)))
        training.cfg.metadata = _metadata(metadata)
        folder = fresh("saelens", name)
        training.save_inference_model(folder)
        again = sl.SAE.load_from_disk(folder, device="cpu")
        expect(folder, again.encode, again.decode)
        checkpoint = fresh("saelens", f"{name}_checkpoint")
        training.save_model(checkpoint)
        expect(checkpoint, again.encode, again.decode)  # what it is when its training ends
    for leftover in OUT.joinpath("saelens").rglob("sparsity.safetensors"):
        leftover.unlink()


def _named(library: Any, name: str) -> Any:
    from sae_lens.saes import sae, transcoder

    return next(getattr(module, name) for module in (library, library.saes, transcoder, sae) if hasattr(module, name))


def _metadata(stated: dict[str, Any]) -> Any:
    from sae_lens.saes.sae import SAEMetadata

    return SAEMetadata(**stated)


@contextlib.contextmanager
def hub(root: Path) -> Any:
    """Let the loaders of SAELens find files below a folder in place of the Hub."""
    from huggingface_hub.errors import EntryNotFoundError
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from safetensors import safe_open

    def download(repo_id: str, filename: str, subfolder: str | None = None, **_: Any) -> str:
        file = root / repo_id.rpartition("/")[2] / (subfolder or "") / filename
        if not file.is_file():
            raise EntryNotFoundError(f"no {file}", response=mock.MagicMock())
        return str(file)

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        with safe_open(download(repo_id, filename), "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}

    with (
        mock.patch.object(loaders, "hf_hub_download", download),
        mock.patch.object(loaders, "get_safetensors_tensor_shapes", shapes),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield loaders


def gemma_scope() -> None:
    """Files as in the releases for Gemma 2, read by the loaders of SAELens."""
    import numpy as np
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
    from sae_lens.saes.transcoder import JumpReLUTranscoder, JumpReLUTranscoderConfig

    for repo, path in (
        ("gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71"),
        ("gemma-scope-2b-pt-res", "embedding/width_4k/average_l0_6"),
        ("gemma-scope-9b-it-res", "layer_9/width_16k/average_l0_14"),
        ("gemma-scope-2b-pt-mlp", "layer_3/width_16k/average_l0_5"),
        ("gemma-scope-2b-pt-att", "layer_3/width_16k/average_l0_5"),
        ("gemma-scope-2b-pt-transcoders", "layer_3/width_16k/average_l0_54"),
    ):
        folder = fresh("gemma_scope", repo, path)
        draw = np.random.default_rng(len(path)).standard_normal
        content = {
            "W_enc": draw((D_IN, D_SAE)),
            "W_dec": draw((D_SAE, D_IN)),
            "b_enc": draw(D_SAE),
            "b_dec": draw(D_IN),
        }
        content["threshold"] = abs(draw(D_SAE))
        save = np.savez_compressed if "att" in repo else np.savez
        save(folder / "params.npz", **{name: array.astype(np.float32) for name, array in content.items()})
        with hub(OUT / "gemma_scope") as loaders:
            transcodes = "transcoders" in repo
            load = (
                loaders.gemma_2_transcoder_huggingface_loader if transcodes else loaders.gemma_2_sae_huggingface_loader
            )
            config, weights, _ = load(f"google/{repo}", path, cfg_overrides={"d_in": D_IN})
        kind, settings = (
            (JumpReLUTranscoder, JumpReLUTranscoderConfig) if transcodes else (JumpReLUSAE, JumpReLUSAEConfig)
        )
        more: dict[str, Any] = {"d_out": D_IN} if transcodes else {}
        sae = kind(settings(d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=False, **more))
        sae.load_state_dict(weights)
        expect(folder, sae.encode, sae.decode)
        kept = {
            key: config[key] for key in ("hook_name", "hook_name_out", "model_name", "prepend_bos") if key in config
        }
        (folder / "expected.json").write_text(
            json.dumps(kept | {"context_size": config["context_size"]}, indent=1) + "\n"
        )


def gemma_scope_2() -> None:
    """Files as in the releases for Gemma 3, with the configuration that SAELens infers for them."""
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
    from sae_lens.saes.transcoder import JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig
    from safetensors.torch import save_file

    for path in ("resid_post/layer_12_width_16k_l0_medium", "transcoder_all/layer_3_width_16k_l0_small_affine"):
        repo, generator = "gemma-scope-2-4b-pt", torch.Generator().manual_seed(len(path))
        folder, transcodes = fresh("gemma_scope", repo, path), "transcoder" in path
        content = {
            "w_enc": torch.randn(D_IN, D_SAE, generator=generator),
            "b_enc": torch.randn(D_SAE, generator=generator),
        }
        content |= {
            "w_dec": torch.randn(D_SAE, D_IN, generator=generator),
            "b_dec": torch.randn(D_IN, generator=generator),
        }
        content["threshold"] = torch.rand(D_SAE, generator=generator)
        if transcodes:
            content["affine_skip_connection"] = torch.randn(D_IN, D_IN, generator=generator)
        save_file(content, folder / "params.safetensors")
        with hub(OUT / "gemma_scope") as loaders:
            raw = loaders._infer_gemma_3_raw_cfg_dict(f"google/{repo}", path)
            (folder / "config.json").write_text(json.dumps(raw, indent=1) + "\n")
            config, weights, _ = loaders.gemma_3_sae_huggingface_loader(f"google/{repo}", path)
        kind, settings, more = JumpReLUSAE, JumpReLUSAEConfig, {}
        if transcodes:
            kind, settings, more = JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig, {"d_out": D_IN}
            # SAELens names the residual stream, and in hf_hook_name the output of the norm, which is what was read.
            config["hook_name"] = config["hook_name"].replace("hook_mlp_in", "ln2.hook_out")
        sae = kind(settings(d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=False, **more))
        sae.load_state_dict(weights)
        expect(folder, sae.encode, sae.decode)
        keys = ("hook_name", "hook_name_out", "model_name", "prepend_bos", "context_size")
        kept = {key: config[key] for key in keys if key in config}
        (folder / "expected.json").write_text(json.dumps(kept, indent=1) + "\n")


def circuit_tracer() -> None:
    """A transcoder of one layer and a layer of a cross-layer transcoder, read by the loaders of SAELens."""
    from sae_lens.saes.transcoder import Transcoder, TranscoderConfig
    from safetensors.torch import save_file

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))

    for name, files in (
        ("transcoders", {"layer_1": {"W_enc": draw(D_SAE, D_IN), "b_enc": draw(D_SAE), "W_dec": draw(D_SAE, D_OUT)}}),
        (
            "cross_layer",
            {
                "W_enc_1": {"W_enc_1": draw(D_SAE, D_IN), "b_enc_1": draw(D_SAE), "b_dec_1": draw(D_OUT)},
                "W_dec_1": {"W_dec_1": draw(D_SAE, 3, D_OUT)},
            },
        ),
    ):
        folder = fresh("circuit_tracer", name)
        written = "model_kind: cross_layer_transcoder\n" if name == "cross_layer" else "model_kind: transcoder_set\n"
        written += "model_name: Qwen/Qwen3-0.6B\nfeature_input_hook: mlp.hook_in\nfeature_output_hook: mlp.hook_out\n"
        (folder / "config.yaml").write_text(written)
        if name == "transcoders":
            files["layer_1"]["b_dec"] = draw(D_OUT)
            sizes = f"d_model: {{value: {D_IN}}}\nd_feature: {{value: {D_SAE}}}\nbatch_size: {{value: 64}}\n"
            (folder / "wandb-config.yaml").write_text(sizes)
        for file, tensors in files.items():
            save_file(tensors, folder / f"{file}.safetensors")
        with hub(OUT / "circuit_tracer") as loaders:
            if name == "transcoders":
                _, weights, _ = loaders.mwhanna_transcoder_huggingface_loader(f"x/{name}", "layer_1.safetensors")
            else:
                _, weights, _ = loaders.mntss_clt_layer_huggingface_loader(f"x/{name}", "1")
        sae = Transcoder(TranscoderConfig(d_in=D_IN, d_sae=D_SAE, d_out=D_OUT, apply_b_dec_to_input=False))
        sae.load_state_dict(weights)
        expect(folder, sae.encode, sae.decode)


# Sparsify.


RELEASES = {
    "connor_rob_hook_z": ("ckkissane/attn-saes-gpt2-small-all-layers", "gpt2-small_L3_Hcat_z.pt"),
    "deepseek_r1": ("qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19", "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"),
    "goodfire": ("Goodfire/Llama-3.1-8B-Instruct-SAE-l19", "Llama-3.1-8B-Instruct-SAE-l19.pth"),
    "qwen_scope": ("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_5", "layer5.sae.pt"),
    "llama_scope": ("fnlp/Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L15R-8x"),
    "llama_scope_r1_distill": ("fnlp/Llama-Scope-R1-Distill", "800M-Slimpajama-0-OpenR1-Math-220k/L15R"),
}
"""Repository and path of one dictionary for each of the registry's formats that are read only by its loaders."""


def releases() -> None:
    """Files in the shapes that SAELens' loaders for single releases read, and what SAELens makes of them."""
    from safetensors.torch import save_file

    for kind, (repo, path) in RELEASES.items():
        top = fresh("releases", kind)
        file = top / repo.partition("/")[2] / path
        (file.parent if file.suffix else file).mkdir(parents=True)
        generator = torch.Generator().manual_seed(len(kind))

        def draw(*shape: int, generator: torch.Generator = generator) -> torch.Tensor:
            return 0.6 * torch.randn(*shape, generator=generator)

        w_enc, w_dec, b_enc, b_dec = draw(D_IN, D_SAE), draw(D_SAE, D_IN), draw(D_SAE), draw(D_IN)
        linear = {"encoder.weight": w_enc.T, "encoder.bias": b_enc, "decoder.weight": w_dec.T, "decoder.bias": b_dec}
        linear = {name: tensor.contiguous() for name, tensor in linear.items()}
        changed: dict[str, Any] = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32"}
        scale = None
        if kind == "connor_rob_hook_z":
            torch.save({"W_enc": w_enc, "W_dec": w_dec, "b_enc": b_enc, "b_dec": b_dec}, file)
            config = {"act_size": D_IN, "dict_size": D_SAE, "act_name": "blocks.3.attn.hook_z", "l1_coeff": 2.0}
            file.with_name(f"{file.stem}_cfg.json").write_text(json.dumps(config) + "\n")
        elif kind == "goodfire":
            torch.save({name.replace("coder.", "coder_linear."): tensor for name, tensor in linear.items()}, file)
        elif kind == "deepseek_r1":
            torch.save(linear, file)
        elif kind == "qwen_scope":
            content = {"W_enc": w_enc.T, "W_dec": w_dec.T, "b_enc": b_enc, "b_dec": b_dec}
            torch.save({name: tensor.contiguous() for name, tensor in content.items()}, file)
        elif kind == "llama_scope":
            config = {"d_model": D_IN, "d_sae": D_SAE, "jump_relu_threshold": 0.35, "act_fn": "jumprelu"}
            config |= {"hook_point_in": "blocks.15.hook_resid_post", "hook_point_out": "blocks.15.hook_resid_post"}
            config |= {"dataset_average_activation_norm": {"in": 1.7, "out": 1.7}, "norm_activation": "dataset-wise"}
            (file / "hyperparams.json").write_text(json.dumps(config, indent=1) + "\n")
            (file / "checkpoints").mkdir()
            save_file(linear, file / "checkpoints" / "final.safetensors")
            scale = D_IN**0.5 / 1.7
        else:
            config = {"d_model": D_IN, "expansion_factor": D_SAE // D_IN, "act_fn": "jumprelu"}
            config |= {"hook_point_in": "blocks.15.hook_resid_post", "hook_point_out": "blocks.15.hook_resid_post"}
            (file / "config.json").write_text(json.dumps(config, indent=1) + "\n")
            save_file({**linear, "log_jumprelu_threshold": draw(D_SAE)}, file / "sae_weights.safetensors")
            scale = 1.6
        _expect_release(kind, repo, path, top, changed, scale)


def _expect_release(kind: str, repo: str, path: str, top: Path, changed: dict[str, Any], scale: float | None) -> None:
    """Write what SAELens computes for a release, as its `from_pretrained` loads it."""
    from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_LOADERS, handle_config_defaulting
    from sae_lens.saes.sae import SAE

    loader = NAMED_PRETRAINED_SAE_LOADERS[kind]
    with hub(top):
        config, weights, _ = loader(repo, path, device="cpu", force_download=False, cfg_overrides=changed)
    sae: Any = SAE.from_dict(handle_config_defaulting(config))
    sae.process_state_dict_for_loading(weights)
    sae.load_state_dict(weights)
    if scale is not None:
        sae.fold_activation_norm_scaling_factor(scale)
    heads = (2, D_IN // 2) if kind == "connor_rob_hook_z" else None
    x = rows() if heads is None else rows().unflatten(-1, heads)
    expect(top, sae.encode, sae.decode, x=x)


def sparsify() -> None:
    """Autoencoders and transcoders at a block and at an MLP, with both activation functions."""
    from sparsify import SparseCoderConfig
    from sparsify.__main__ import RunConfig
    from sparsify.sparse_coder import SparseCoder

    for run, module, more in (
        ("topk", "layers.1", {}),
        ("topk", "layers.1.mlp", {}),
        ("groupmax", "h.1", {"activation": "groupmax"}),
        ("transcoders", "transformer.h.1.mlp", {"transcode": True}),
        ("skip_transcoders", "layers.1.mlp", {"transcode": True, "skip_connection": True}),
    ):
        config = SparseCoderConfig(num_latents=D_SAE, k=4, **more)
        coder = shaken(SparseCoder(D_IN, config))
        folder = fresh("sparsify", run, module)
        coder.save_to_disk(folder)
        again = SparseCoder.load_from_disk(folder)
        RunConfig(config, model="EleutherAI/pythia-70m", dataset="x", ctx_len=64, exclude_tokens=[0]).save_json(
            folder.parent / "config.json", indent=1
        )

        def encode(x: torch.Tensor, coder: Any = again) -> torch.Tensor:
            found = coder.encode(x)
            return torch.zeros(len(x), D_SAE).scatter(-1, found.top_indices, found.top_acts)

        def decode(latents: torch.Tensor, coder: Any = again) -> torch.Tensor:
            return coder.decode(latents, torch.arange(D_SAE).expand(len(latents), D_SAE))

        expect(folder, encode, decode)


# dictionary_learning.


def dictionary_learning() -> None:
    """Every class of dictionaries, as the trainers save them."""
    from dictionary_learning import dictionary
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    sizes = D_IN, D_SAE
    for made in (
        dictionary.AutoEncoder(*sizes),
        dictionary.AutoEncoderNew(*sizes),
        dictionary.GatedAutoEncoder(*sizes),
        dictionary.JumpReluAutoEncoder(*sizes),
        AutoEncoderTopK(*sizes, 4),
        BatchTopKSAE(*sizes, 4),
        MatryoshkaBatchTopKSAE(*sizes, 4, [4, 12]),
    ):
        name = type(made).__name__
        folder = fresh("dictionary_learning", name)
        torch.save(shaken(made).state_dict(), folder / "ae.pt")
        trainer = {"trainer_class": "Trainer", "dict_class": name, "lr": 1e-3, "seed": 0, "activation_dim": D_IN}
        trainer |= {"dict_size": D_SAE, "layer": 1, "lm_name": "EleutherAI/pythia-70m-deduped"}
        trainer["submodule_name"] = "resid_post_layer_1"
        trainer |= {"k": 4} if hasattr(made, "k") else {}
        buffer = {"d_submodule": D_IN, "io": "out", "n_ctxs": 9, "ctx_len": 64, "device": "cpu"}
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": buffer}, indent=1))
        again = type(made).from_pretrained(folder / "ae.pt")
        again = made if again is None else again
        expect(folder, again.encode, again.decode)


if __name__ == "__main__":
    for library in sys.argv[1:]:
        globals()[library]()
