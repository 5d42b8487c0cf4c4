//! factors[head]: what the gradients of a head's losses are multiplied with. One thread.
//! dispatch: [1, 1, 1]

struct Params {
    heads: u32,
    // 1: each head's losses as if their root mean square were that of head 0.
    balance: u32,
    weight: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
// The sum of the losses of each head, the sum of their squares, how many count.
@group(0) @binding(1) var<storage, read> report: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> factors: array<f32>;

@compute @workgroup_size(1)
fn main() {
    let lead = report[0].y / max(report[0].z, 1.0);
    for (var head = 0u; head < params.heads; head++) {
        let own = report[head];
        var factor = 0.0;
        if (own.z > 0.0) {
            factor = params.weight / own.z;
            // Without losses there is nothing to balance.
            if (params.balance == 1u && head > 0u && report[0].z > 0.0 && own.y > 0.0) {
                factor *= sqrt(lead / (own.y / own.z));
            }
        }
        factors[head] = factor;
    }
}
