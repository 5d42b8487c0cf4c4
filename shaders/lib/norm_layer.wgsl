// LayerNorm: (x - mean) / sqrt(variance + eps) * scale + shift, the variance from the centred values.

@group(0) @binding(5) var<storage, read> shift: array<f32>;

fn norm_stats(source: u32, lane: u32) -> vec2<f32> {
    var sum = 0.0;
    for (var i = lane; i < params.width; i += LANES) {
        sum += x[source + i];
    }
    let mean = reduce_sum(sum, lane) / f32(params.width);
    var squares = 0.0;
    for (var i = lane; i < params.width; i += LANES) {
        let centred = x[source + i] - mean;
        squares = fma(centred, centred, squares);
    }
    return vec2<f32>(mean, inverseSqrt(reduce_sum(squares, lane) / f32(params.width) + params.eps));
}

fn norm_apply(value: f32, i: u32, stats: vec2<f32>) -> f32 {
    return fma((value - stats.x) * stats.y, scale[i], shift[i]);
}
