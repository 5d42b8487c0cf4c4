// How the next token is chosen. See src/kernels/sample.rs, which a test compares with this.

struct Sampling {
    vocab: u32,
    stride: u32,
    temperature: f32,
    repetition_penalty: f32,
    // 0: off.
    top_k: u32,
    // 1: off.
    top_p: f32,
    // 0: off.
    min_p: f32,
    pad0: u32,
    seed: vec2<u32>,
    pad1: vec2<u32>,
}
