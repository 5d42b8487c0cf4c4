// What a softmax of a row of logits needs, in one read of the row.

// Values a lane adds before it adds their sum to the others: sums of hundreds of thousands stay accurate.
const SEGMENT: u32 = 64u;

fn logit(i: u32, first: u32) -> f32 {
    return select(-3.0e38, logits[first + min(i, params.vocab - 1u)], i < params.vocab);
}

// The highest logit, and the sum of exp(logit - highest).
fn softmax_sum(first: u32, lane: u32) -> vec2<f32> {
    var highest = -3.0e38;
    var sum = 0.0;
    for (var segment = lane; segment < params.vocab; segment += SEGMENT * LANES) {
        var maximum = highest;
        var part = 0.0;
        for (var i = segment; i < min(params.vocab, segment + SEGMENT * LANES); i += 8u * LANES) {
            //: repeat j 8
            let x$j = logit(i + $ju * LANES, first);
            //: end
            let higher = max(maximum, max(max(max(x0, x1), max(x2, x3)), max(max(x4, x5), max(x6, x7))));
            let four = (exp(x0 - higher) + exp(x1 - higher)) + (exp(x2 - higher) + exp(x3 - higher));
            let more = (exp(x4 - higher) + exp(x5 - higher)) + (exp(x6 - higher) + exp(x7 - higher));
            part = part * exp(maximum - higher) + (four + more);
            maximum = higher;
        }
        sum = sum * exp(highest - maximum) + part;
        highest = maximum;
    }
    let maximum = reduce_max(highest, lane);
    return vec2<f32>(maximum, reduce_sum(sum * exp(highest - maximum), lane));
}
