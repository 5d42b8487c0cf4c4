// RMSNorm (Zhang and Sennrich, arXiv 1910.07467): x / sqrt(mean(x^2) + eps) * scale.

fn norm_stats(source: u32, lane: u32) -> vec2<f32> {
    var squares = 0.0;
    for (var i = lane; i < params.width; i += LANES) {
        squares = fma(x[source + i], x[source + i], squares);
    }
    return vec2<f32>(0.0, inverseSqrt(reduce_sum(squares, lane) / f32(params.width) + params.eps));
}

fn norm_apply(value: f32, i: u32, stats: vec2<f32>) -> f32 {
    return value * stats.y * scale[i];
}
