//! A step of AdamW (Loshchilov and Hutter, arXiv 1711.05101) as torch.optim.AdamW takes it. A gradient whose norm is not
//! finite changes nothing.
//! dispatch: [x, y, 1], 256 blocks of four values a workgroup

struct Params {
    // Blocks of four.
    count4: u32,
    // Multiplies the rate.
    scale: f32,
}

struct AdamStep {
    rate: f32,
    decay: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    // 1 - beta^step
    correction1: f32,
    correction2: f32,
    pad0: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> step: AdamStep;
// Norm, factor, whether it is finite: see clip_factor.
@group(0) @binding(2) var<storage, read> clip: array<f32>;
@group(0) @binding(3) var<storage, read_write> value: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> grad: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> first: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> second: array<vec4<f32>>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + lane;
    if (i >= params.count4 || clip[2] == 0.0) {
        return;
    }
    let rate = step.rate * params.scale;
    let g = grad[i] * clip[1];
    let m = fma(vec4<f32>(1.0 - step.beta1), g - first[i], first[i]);
    let v = fma((1.0 - step.beta2) * g, g, step.beta2 * second[i]);
    first[i] = m;
    second[i] = v;
    let kept = value[i] * (1.0 - rate * step.decay);
    value[i] = kept - (rate / step.correction1) * m / (sqrt(v) / sqrt(step.correction2) + step.eps);
}
