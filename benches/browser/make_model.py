"""A random Llama of the shape of `foretoken bench`, once for foretoken and twice, with the same weights, for onnxruntime-web.

    python3 benches/browser/make_model.py FOLDER

FOLDER gets config.json, model.safetensors and a tokenizer whose words are t0, t1, ..., one for each id, and in onnx/ two graphs:
model.onnx has nothing but standard operators, as exporters of PyTorch write them; model_fused.onnx has onnxruntime's own
norms and attention, as its model builder writes them. Needs numpy, onnx and safetensors from PyPI.
"""

import argparse
import json
from pathlib import Path

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

HIDDEN, LAYERS, HEADS, INNER, VOCAB, CONTEXT = 288, 6, 6, 768, 32000, 2048
HEAD = HIDDEN // HEADS
EPSILON, THETA = 1e-5, 10000.0

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": HEAD,
    "vocab_size": VOCAB, "max_position_embeddings": CONTEXT, "rms_norm_eps": EPSILON, "rope_theta": THETA,
    "hidden_act": "silu", "tie_word_embeddings": True,
}
TOKENIZER = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
    "model": {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": True, "merges": [],
        "vocab": {f"t{i}": i for i in range(VOCAB)},
    },
}


def weights():
    shapes = {"model.embed_tokens": [VOCAB, HIDDEN], "model.norm": [HIDDEN]}
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.self_attn.{name}_proj": [HIDDEN, HIDDEN] for name in "qkvo"}
        shapes |= {f"{layer}.mlp.{name}_proj": [INNER, HIDDEN] for name in ["gate", "up"]}
        shapes |= {f"{layer}.mlp.down_proj": [HIDDEN, INNER]}
        shapes |= {f"{layer}.{name}_layernorm": [HIDDEN] for name in ["input", "post_attention"]}
    random = numpy.random.default_rng(1)
    for name, shape in shapes.items():
        # Layers that outweigh the embeddings: otherwise the tied weights make every text repeat its last token.
        scale = (1 if "embed" in name else 3) / numpy.sqrt(shape[-1])
        values = numpy.ones(shape) if len(shape) == 1 else random.normal(size=shape) * scale
        yield f"{name}.weight", values.astype(numpy.float32)


class Graph:
    """An ONNX graph of the weights, fused or not. Inputs and outputs have the names that transformers.js looks for."""

    def __init__(self, tensors, fused):
        self.tensors, self.fused = tensors, fused
        self.nodes, self.initializers, self.constants = [], [], {}

    def op(self, kind, *inputs, outputs=1, domain="", **attributes):
        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        inputs = [name if isinstance(name, str) else self.constant(name) for name in inputs]
        self.nodes.append(helper.make_node(kind, inputs, names, names[0], domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, values):
        """By name; numbers alone are int64."""
        values = values if isinstance(values, numpy.ndarray) else numpy.array(values, numpy.int64)
        key = (values.dtype, values.shape, values.tobytes())
        if key not in self.constants:
            self.constants[key] = f"constant_{len(self.constants)}"
            self.initializers.append(numpy_helper.from_array(values, self.constants[key]))
        return self.constants[key]

    def linear(self, x, name):
        return self.op("MatMul", x, numpy.ascontiguousarray(self.tensors[f"{name}.weight"].T))

    def norm(self, x, name):
        scale = self.tensors[f"{name}.weight"]
        if self.fused:
            return self.op("SimplifiedLayerNormalization", x, scale, axis=-1, epsilon=EPSILON, stash_type=1)
        mean = self.op("ReduceMean", self.op("Pow", x, float32(2)), [-1], keepdims=1)
        root = self.op("Sqrt", self.op("Add", mean, float32(EPSILON)))
        return self.op("Mul", self.op("Mul", x, self.op("Div", float32(1), root)), scale)

    def prepare(self):
        """What all layers share."""
        angles = numpy.outer(numpy.arange(CONTEXT), THETA ** (-numpy.arange(0, HEAD, 2) / HEAD))
        cos, sin = numpy.cos(angles).astype(numpy.float32), numpy.sin(angles).astype(numpy.float32)
        total = self.op("Gather", self.op("Shape", "attention_mask"), 1, axis=0)
        if self.fused:
            ends = self.op("Sub", self.op("ReduceSum", "attention_mask", [1], keepdims=0), [1])
            self.shared = [self.op("Cast", x, to=TensorProto.INT32) for x in [ends, total]] + [cos, sin]
            return
        tables = [numpy.concatenate([table, table], 1) for table in [cos, sin]]
        self.cos, self.sin = [self.op("Unsqueeze", self.op("Gather", x, "position_ids"), [1]) for x in tables]
        rows = self.op("Unsqueeze", "position_ids", [1, 3])
        seen = self.op("LessOrEqual", self.op("Range", 0, total, 1), rows)
        self.bias = self.op("Where", seen, float32(0), float32(-1e30))

    def split(self, x):
        return self.op("Transpose", self.op("Reshape", x, [0, 0, HEADS, HEAD]), perm=[0, 2, 1, 3])

    def rotate(self, x):
        low, high = self.op("Split", x, [HEAD // 2, HEAD // 2], outputs=2, axis=-1)
        turned = self.op("Concat", self.op("Neg", high), low, axis=-1)
        return self.op("Add", self.op("Mul", x, self.cos), self.op("Mul", turned, self.sin))

    def attention(self, i, q, k, v):
        """The values that each row attends to, and the cache with the new keys and values."""
        past = [f"past_key_values.{i}.{part}" for part in ["key", "value"]]
        if self.fused:
            sizes = {"num_heads": HEADS, "kv_num_heads": HEADS, "scale": HEAD**-0.5, "do_rotary": 1}
            inputs = [q, k, v, *past, *self.shared]
            return self.op("GroupQueryAttention", *inputs, outputs=3, domain="com.microsoft", **sizes)
        q, k, v = self.rotate(self.split(q)), self.rotate(self.split(k)), self.split(v)
        keys, values = [self.op("Concat", old, new, axis=2) for old, new in zip(past, [k, v])]
        scores = self.op("MatMul", q, self.op("Transpose", keys, perm=[0, 1, 3, 2]))
        scores = self.op("Add", self.op("Mul", scores, float32(HEAD**-0.5)), self.bias)
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), values)
        return self.op("Reshape", self.op("Transpose", mixed, perm=[0, 2, 1, 3]), [0, 0, HIDDEN]), keys, values

    def layer(self, i, x):
        name = f"model.layers.{i}"
        rows = self.norm(x, f"{name}.input_layernorm")
        mixed, *cache = self.attention(i, *[self.linear(rows, f"{name}.self_attn.{part}_proj") for part in "qkv"])
        for part, value in zip(["key", "value"], cache):
            self.nodes.append(helper.make_node("Identity", [value], [f"present.{i}.{part}"]))
        x = self.op("Add", x, self.linear(mixed, f"{name}.self_attn.o_proj"))
        rows = self.norm(x, f"{name}.post_attention_layernorm")
        gate, up = [self.linear(rows, f"{name}.mlp.{part}_proj") for part in ["gate", "up"]]
        inner = self.op("Mul", self.op("Mul", gate, self.op("Sigmoid", gate)), up)
        return self.op("Add", x, self.linear(inner, f"{name}.mlp.down_proj"))

    def model(self):
        self.prepare()
        embeddings = self.tensors["model.embed_tokens.weight"]
        x = self.op("Gather", embeddings, "input_ids")
        for i in range(LAYERS):
            x = self.layer(i, x)
        # Of a prompt, transformers.js wants the last position's logits only.
        first = self.op("Reshape", self.op("Neg", "num_logits_to_keep"), [1])
        x = self.norm(self.op("Slice", x, first, [2**63 - 1], [1]), "model.norm")
        self.nodes.append(helper.make_node("MatMul", [x, self.op("Transpose", embeddings, perm=[1, 0])], ["logits"]))

        def tensor(name, kind, *shape):
            return helper.make_tensor_value_info(name, kind, shape)

        cache = [f"{i}.{part}" for i in range(LAYERS) for part in ["key", "value"]]
        ids = {"input_ids": "rows", "attention_mask": "total", "position_ids": "rows"}
        if self.fused:
            del ids["position_ids"]
        inputs = [tensor(name, TensorProto.INT64, "batch_size", length) for name, length in ids.items()]
        inputs += [tensor("num_logits_to_keep", TensorProto.INT64)]
        inputs += [tensor(f"past_key_values.{name}", TensorProto.FLOAT, "batch_size", HEADS, "past", HEAD) for name in cache]
        outputs = [tensor("logits", TensorProto.FLOAT, "batch_size", "kept", VOCAB)]
        outputs += [tensor(f"present.{name}", TensorProto.FLOAT, "batch_size", HEADS, "total", HEAD) for name in cache]
        graph = helper.make_graph(self.nodes, "llama", inputs, outputs, self.initializers)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def float32(value):
    return numpy.array(value, numpy.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    tensors = dict(weights())
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    kind = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name, content in [("config", CONFIG), ("tokenizer", TOKENIZER), ("tokenizer_config", kind)]:
        (folder / f"{name}.json").write_text(json.dumps(content))
    for name, fused in [("model", False), ("model_fused", True)]:
        onnx.save(Graph(tensors, fused).model(), folder / "onnx" / f"{name}.onnx")


main()
