"""Models of timm and transformers: each parameter's role, in over forty architectures, is what a person says it is.

The models are on torch's meta device, without numbers: roles are told by modules and shapes alone.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import hosting  # noqa: F401 - timm cannot be imported before it
import pytest
import torch

import steprule as sr
from steprule.errors import ParameterError
from steprule.optim.roles import ROLES, roles

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.null, pytest.mark.host("models of timm and transformers")]

SIZES = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT = {**SIZES, "max_position_embeddings": 48}
LLAMA = {**BERT, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT = {
    "vocab_size": 97,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 48,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
BART = {"vocab_size": 97, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, **ENDS}  # fmt: skip
VIT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
       "patch_size": 4, "num_labels": 5}  # fmt: skip
CONFIGURED: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": GPT,
    "GPTJForCausalLM": {**GPT, "rotary_dim": 4},
    "GPTNeoXForCausalLM": {**BERT, "bos_token_id": 1, "eos_token_id": 2},
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": LLAMA,
    "Qwen2ForCausalLM": LLAMA,
    "Qwen3ForCausalLM": {**LLAMA, "head_dim": 8},
    "Gemma2ForCausalLM": {**LLAMA, "head_dim": 8},
    "Phi3ForCausalLM": LLAMA,
    "Olmo2ForCausalLM": LLAMA,
    "MixtralForCausalLM": {**LLAMA, "num_local_experts": 4},
    "OPTForCausalLM": {"vocab_size": 97, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2,
                       "num_attention_heads": 4, "max_position_embeddings": 48, "word_embed_proj_dim": 32},
    "BloomForCausalLM": {"vocab_size": 97, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "T5ForConditionalGeneration": {"vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2,
                                   "num_heads": 4},
    "BartForConditionalGeneration": {**BART, "max_position_embeddings": 48},
    "WhisperForConditionalGeneration": {**BART, "num_mel_bins": 8, "max_source_positions": 20,
                                        "max_target_positions": 20},
    "BertForMaskedLM": BERT,
    "BertForSequenceClassification": {**BERT, "num_labels": 5},
    "RobertaForSequenceClassification": {**BERT, "num_labels": 5, "bos_token_id": 1, "eos_token_id": 2},
    "DistilBertForSequenceClassification": {"vocab_size": 97, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4,
                                            "num_labels": 5},
    "ElectraForMaskedLM": {**BERT, "embedding_size": 16},
    "DebertaV2ForSequenceClassification": {**BERT, "num_labels": 5},
    "ViTForImageClassification": VIT,
    "SwinForImageClassification": {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1],
                                   "num_heads": [2, 4], "window_size": 4, "num_labels": 5},
    "ConvNextForImageClassification": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_labels": 5},
    "Wav2Vec2ForCTC": {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
                       "intermediate_size": 64, "conv_dim": [16, 16], "conv_stride": [2, 2], "conv_kernel": [3, 3],
                       "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
                       "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}  # fmt: skip
"""Models of transformers, made small."""

MLP = "hidden *.mlp.*.weight"
LLAMAS = ["embedding model.embed_tokens.weight", "head lm_head.weight", "norm *norm.weight",
          "hidden *.self_attn.*_proj.weight *.mlp.*_proj.weight", "bias *.bias"]  # fmt: skip
BERTS = ["embedding *.embeddings.*_embeddings.weight", "norm *LayerNorm.*",
         "hidden *.attention.*.weight *.intermediate.dense.weight *.output.dense.weight"]  # fmt: skip
BARTS = ["embedding *.embed_positions.weight", "norm *layer_norm*", "hidden *_proj.weight *.fc1.weight *.fc2.weight",
         "bias *.bias"]  # fmt: skip
CLASSIFIER = ["head classifier.weight", "bias classifier.bias"]
CONVS = ["norm *bn*.weight *bn*.bias", "convolution *.weight", "bias *.bias"]
TABLE: dict[str, list[str]] = {
    "GPT2LMHeadModel": ["tied transformer.wte.weight", "embedding transformer.wpe.weight", "norm *.ln_*",
                        "qkv *.c_attn.weight", "hidden *.attn.*.weight *.mlp.*.weight", "bias *.bias"],
    "GPTJForCausalLM": ["embedding transformer.wte.weight", "head lm_head.weight", "norm *.ln_*",
                        "hidden *.attn.*_proj.weight *.mlp.*.weight", "bias *.bias"],
    "GPTNeoXForCausalLM": ["embedding gpt_neox.embed_in.weight", "head lm_head.weight embed_out.weight", "norm *norm*",
                           "hidden *.attention.*.weight *.mlp.*.weight", "bias *.bias"],
    "LlamaForCausalLM": LLAMAS,
    "MistralForCausalLM": LLAMAS,
    "Qwen2ForCausalLM": LLAMAS,
    "Qwen3ForCausalLM": LLAMAS,
    "Gemma2ForCausalLM": ["tied model.embed_tokens.weight", *LLAMAS[2:]],
    "Phi3ForCausalLM": LLAMAS,
    "Olmo2ForCausalLM": LLAMAS,
    "MixtralForCausalLM": [*LLAMAS[:3], "hidden *.self_attn.*_proj.weight *.gate.weight",
                           "stack *.experts.gate_up_proj *.experts.down_proj"],
    "OPTForCausalLM": ["tied *.embed_tokens.weight", "embedding *.embed_positions.weight", "norm *layer_norm*",
                       "hidden *_proj.weight *.fc1.weight *.fc2.weight", "bias *.bias"],
    "BloomForCausalLM": ["tied *.word_embeddings.weight", "norm *layernorm* *ln_f*", "hidden *.self_attention.*.weight",
                         MLP, "bias *.bias"],
    "T5ForConditionalGeneration": ["tied shared.weight", "embedding *.relative_attention_bias.weight",
                                   "norm *layer_norm.weight", "hidden *Attention.*.weight *.DenseReluDense.*.weight"],
    "BartForConditionalGeneration": ["tied model.shared.weight", "norm *layernorm*", *BARTS],
    "WhisperForConditionalGeneration": ["tied model.decoder.embed_tokens.weight", "convolution *.conv?.weight", *BARTS],
    "BertForMaskedLM": ["tied bert.embeddings.word_embeddings.weight", *BERTS,
                        "hidden cls.predictions.transform.dense.weight", "bias *bias"],
    "BertForSequenceClassification": [*BERTS, "hidden bert.pooler.dense.weight", *CLASSIFIER, "bias *.bias"],
    "RobertaForSequenceClassification": [*BERTS, "hidden classifier.dense.weight", "head classifier.out_proj.weight",
                                         "bias *.bias"],
    "DistilBertForSequenceClassification": [
        "embedding *_embeddings.weight", "norm *layer_norm* *LayerNorm*", "hidden *.attention.*.weight *.ffn.*.weight",
        "hidden pre_classifier.weight", *CLASSIFIER, "bias *.bias"],
    "ElectraForMaskedLM": ["tied electra.embeddings.word_embeddings.weight", *BERTS,
                           "hidden electra.embeddings_project.weight generator_predictions.dense.weight",
                           "bias *.bias"],
    "DebertaV2ForSequenceClassification": ["norm deberta.encoder.LayerNorm.*", "embedding *.rel_embeddings.weight",
                                           *BERTS, "hidden pooler.dense.weight", *CLASSIFIER, "bias *.bias"],
    "ViTForImageClassification": ["vector *.cls_token", "positional *.position_embeddings",
                                  "convolution *.patch_embeddings.projection.weight", "norm *norm*", *CLASSIFIER,
                                  "hidden *.weight", "bias *.bias"],
    "SwinForImageClassification": ["convolution *.patch_embeddings.projection.weight", "norm *norm*",
                                   "positional *.relative_position_bias_table", *CLASSIFIER, "hidden *.weight",
                                   "bias *.bias"],
    "ConvNextForImageClassification": ["norm *norm.* *.downsampling_layer.0.*", "depthwise *.dwconv.weight",
                                       "vector *.layer_scale_parameter", "hidden *.pwconv?.weight", *CLASSIFIER,
                                       "convolution *.patch_embeddings.weight *.downsampling_layer.1.weight",
                                       "bias *.bias"],
    "Wav2Vec2ForCTC": ["vector *.masked_spec_embed *.original0", "norm *norm*", "head lm_head.weight",
                       "convolution *.conv.weight *.original1", "hidden *_proj.weight *.projection.weight",
                       "hidden *.intermediate_dense.weight *.output_dense.weight", "bias *.bias"],
    "resnet18": ["head fc.weight", "norm *downsample.1.*", *CONVS],
    "densenet121": ["head classifier.weight", "bias classifier.bias", "norm *norm*", "convolution *.weight"],
    "vgg11": ["head head.fc.weight", "convolution *.weight", "bias *.bias"],
    "regnetx_002": ["head head.fc.weight", *CONVS],
    "efficientnet_b0": ["head classifier.weight", "depthwise *.conv_dw.weight", *CONVS],
    "mobilenetv3_small_100": ["head classifier.weight", "depthwise *.conv_dw.weight", *CONVS],
    "convnext_atto": ["head head.fc.weight", "norm *norm* *stem.1.* *downsample.0.*", "vector *.gamma",
                      "depthwise *.conv_dw.weight", "convolution *.weight", "bias *.bias"],
    "convmixer_768_32": ["head head.weight", "bias head.bias", "convolution stem.0.weight blocks.*.1.weight",
                         "depthwise blocks.*.0.fn.0.weight", "bias stem.0.bias *.fn.0.bias blocks.*.1.bias", "norm *"],
    "vit_tiny_patch16_224": ["vector cls_token", "positional pos_embed", "convolution patch_embed.proj.weight",
                             "norm *norm*", "head head.weight", "qkv *.qkv.weight", "hidden *.weight", "bias *.bias"],
    "deit_tiny_distilled_patch16_224": ["vector cls_token dist_token", "positional pos_embed", "norm *norm*",
                                        "convolution patch_embed.proj.weight", "head head.weight head_dist.weight",
                                        "qkv *.qkv.weight", "hidden *.weight", "bias *.bias"],
    "cait_xxs24_224": ["vector cls_token *.gamma_?", "positional pos_embed", "convolution patch_embed.proj.weight",
                       "norm *norm*", "head head.weight", "qkv *.qkv.weight", "hidden *.weight", "bias *.bias"],
    "swin_tiny_patch4_window7_224": ["positional *.relative_position_bias_table", "convolution patch_embed.proj.weight",
                                     "norm *norm*", "head head.fc.weight", "qkv *.qkv.weight", "hidden *.weight",
                                     "bias *.bias"],
    "beit_base_patch16_224": ["vector cls_token *.gamma_? *.q_bias *.v_bias", "convolution patch_embed.proj.weight",
                              "positional *.relative_position_bias_table", "norm *norm*", "head head.weight",
                              "qkv *.qkv.weight", "hidden *.weight", "bias *.bias"],
    "mixer_s16_224": ["convolution stem.proj.weight", "norm *norm*", "head head.weight", "hidden *.weight",
                      "bias *.bias"],
    "hiera_tiny_224": ["positional pos_embed*", "convolution patch_embed.proj.weight", "norm *norm*",
                       "head head.fc.weight", "qkv *.qkv.weight", "hidden *.weight", "bias *.bias"],
    "levit_128s": ["positional *.attention_biases", "norm *bn*.weight *bn*.bias", "head head*.linear.weight",
                   "convolution stem.*", "hidden *.weight", "bias *.bias"],
    "sequencer2d_s": ["recurrent *.rnn_?.weight_*", "bias *.rnn_?.bias_*", "norm *norm*", "head head.fc.weight",
                      "convolution stem.proj.weight *.downsample.down.weight", "hidden *.weight", "bias *.bias"],
    "nfnet_l0": ["head head.fc.weight", "vector *.gain *.skipinit_gain", "convolution *.weight", "bias *.bias"],
}  # fmt: skip
"""Of each architecture, roles with the parameters that have them: of several that fit, the first counts."""

SPLITS: dict[tuple[str, str], Any] = {
    ("qkv", "GPT2LMHeadModel"): ("columns", 3),
    ("stack", "MixtralForCausalLM"): "stack",
}
"""How the matrices in one tensor are told apart; the others with queries, keys and values are three times as many rows.

Those of GPT-NeoX and BLOOM lie head by head, so that no three parts are queries, keys and values: they stay whole.
"""


def made(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        if name not in CONFIGURED:
            return timm.create_model(name)
        model = getattr(transformers, name)
        return model(model.config_class(**CONFIGURED[name]))


def written(table: list[str], name: str) -> str:
    for line in table:
        role, *patterns = line.split()
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return role
    return "in no line"


@pytest.mark.parametrize("name", TABLE)
def test_every_parameter_is_what_the_table_says(name: str) -> None:
    routes = sr.optim.Muon(made(name)).routes
    found = {key: route.role for key, route in routes.items()}
    by_muon = {key for key, route in routes.items() if route.rule == "muon"}
    assert by_muon == {key for key, role in found.items() if role in {"hidden", "qkv", "convolution", "stack"}}
    split = {key: route.splits for key, route in routes.items() if route.splits is not None}
    assert split == {key: SPLITS[role, name] for key, role in found.items() if (role, name) in SPLITS} | {
        key: 3 for key, role in found.items() if role == "qkv" and (role, name) not in SPLITS
    }  # fmt: skip
    assert found == {key: written(TABLE[name], key) for key in found}
    used = {line.split()[0] for line in TABLE[name]}
    assert used <= ROLES.keys()
    assert set(found.values()) >= used - {"bias"}


def test_the_table_has_more_than_forty_architectures() -> None:
    assert len(TABLE) > 40
    assert min(len(CONFIGURED), len(TABLE.keys() - CONFIGURED.keys())) >= 15


@pytest.mark.parametrize(
    ("name", "options", "told", "line"),
    [
        ("BertModel", BERT, "pooler.dense.weight", {"pooler.dense.weight": "hidden"}),
        ("MambaForCausalLM", {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
         "backbone.layers.*.mixer.A_log", {"*.A_log": "vector"}),
    ],
)  # fmt: skip
def test_what_a_model_does_not_show_is_refused_and_one_line_is_enough(
    name: str, options: dict[str, Any], told: str, line: dict[str, str]
) -> None:
    with torch.device("meta"):
        model = getattr(transformers, name)
        model = model(model.config_class(**options))
    with pytest.raises(ParameterError, match="not clear") as caught:
        roles(model)
    assert f"roles={{{told!r}: " in caught.value.fix
    roles(model, line)
