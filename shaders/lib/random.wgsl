// Randomness without a state: a hash of (seed, position, token), so that a draw does not depend on how
// the work was cut into steps. The hash is pcg4d (Jarzynski and Olano, JCGT 9(3), 2020).

fn pcg4d(input: vec4<u32>) -> vec4<u32> {
    let v = pcg_round(input * 1664525u + 1013904223u);
    return pcg_round(v ^ (v >> vec4<u32>(16u)));
}

// One component after the other: each is mixed with what stands in the others by then.
fn pcg_round(v: vec4<u32>) -> vec4<u32> {
    let x = v.x + v.y * v.w;
    let y = v.y + v.z * x;
    let z = v.z + x * y;
    let w = v.w + y * z;
    return vec4<u32>(x, y, z, w);
}

// The noise of a token at a position: a standard Gumbel variate.
fn gumbel(seed: vec2<u32>, position: u32, token: u32) -> f32 {
    return gumbel_of(pcg4d(vec4<u32>(seed, position, token)).x);
}

// -log(-log(1 - u)) for u uniform on 2^32 steps of (0, 1).
// Small u decide who wins, and log is inexact near 1, so there -log(1 - u) is summed as a series.
fn gumbel_of(bits: u32) -> f32 {
    // In two halves: some adapters round the conversion of large integers their own way.
    let number = fma(f32(bits >> 16u), 65536.0, f32(bits & 0xffffu));
    let u = min((number + 0.5) * 2.3283064365386963e-10, 0.99999994);
    var series = 1.0 / 9.0;
    series = fma(series, u, 1.0 / 8.0);
    series = fma(series, u, 1.0 / 7.0);
    series = fma(series, u, 1.0 / 6.0);
    series = fma(series, u, 1.0 / 5.0);
    series = fma(series, u, 1.0 / 4.0);
    series = fma(series, u, 1.0 / 3.0);
    series = fma(series, u, 1.0 / 2.0);
    series = fma(series, u, 1.0);
    return -log(select(-log(1.0 - u), series * u, u < 0.125));
}
