// A cut through one order of the tokens, largest first and ties by id: a key and, among the tokens that share it, an id.
// The shader has `params.vocab` and says what orders the token at an index, `ranked`, and what it weighs, `weighed`.

var<private> cut_key: u32 = 0u;
var<private> cut_id: u32 = 0xffffffffu;

// Unsigned integers in the order of the floats, the two zeros as one.
fn sort_key(value: f32) -> u32 {
    let bits = bitcast<u32>(select(value, 0.0, value == 0.0));
    return select(bits | 0x80000000u, ~bits, bits >> 31u == 1u);
}

fn kept(key: u32, id: u32) -> bool {
    return key > cut_key || (key == cut_key && id <= cut_id);
}

// What token i adds to `measure`.
fn measured(i: u32, lowest: u32, by_weight: bool, first: u32) -> f32 {
    if (i >= params.vocab) {
        return 0.0;
    }
    let key = sort_key(ranked(first + i));
    if (key < lowest || !kept(key, i)) {
        return 0.0;
    }
    return select(1.0, weighed(first + i), by_weight);
}

// Number, or summed weight, of the kept tokens with a key of at least `lowest`.
fn measure(lowest: u32, by_weight: bool, first: u32, lane: u32) -> f32 {
    var sum = 0.0;
    for (var i = lane; i < params.vocab; i += 8u * LANES) {
        //: repeat j 8
        sum += measured(i + $ju * LANES, lowest, by_weight, first);
        //: end
    }
    return reduce_sum(sum, lane);
}

// What token i adds to `ties_below`.
fn tied(i: u32, key: u32, bound: u32, first: u32) -> f32 {
    if (i >= min(params.vocab, bound)) {
        return 0.0;
    }
    return select(0.0, 1.0, sort_key(ranked(first + i)) == key && kept(key, i));
}

// Number of kept tokens with this very key and an id below `bound`.
fn ties_below(key: u32, bound: u32, first: u32, lane: u32) -> f32 {
    var sum = 0.0;
    for (var i = lane; i < min(params.vocab, bound); i += 8u * LANES) {
        //: repeat j 8
        sum += tied(i + $ju * LANES, key, bound, first);
        //: end
    }
    return reduce_sum(sum, lane);
}

// Moves the cut up to the shortest prefix that has a share `wanted` of what is kept, by weight, or else `wanted` tokens.
// Returns the weight, or the number, of what was kept before. Each measure stands in one place only, in a loop: compilers
// write it out wherever it stands.
fn narrow(wanted: f32, by_weight: bool, first: u32, lane: u32) -> f32 {
    var goal = wanted;
    var whole = 0.0;
    var key = 0u;
    // The measures from `key` on, and from the next higher key on: the last that reached the goal, and the last that did not.
    var reached = 0.0;
    var above = 0.0;
    var bit = 0u;
    for (var turn = 0u; turn <= 32u; turn++) {
        let found = measure(key | bit, by_weight, first, lane);
        if (turn == 0u) {
            whole = found;
            goal = select(wanted, wanted * whole, by_weight);
            if (whole <= goal) {
                return whole;
            }
        }
        if (found >= goal) {
            key |= bit;
            reached = found;
        } else {
            above = found;
        }
        bit = select(bit >> 1u, 0x80000000u, turn == 0u);
    }
    var id = 0u;
    var needed = 0.0;
    // Ids are below this bit, so the first turn counts all tokens of this key.
    let all = 0x1000000u;
    for (var bit = all; bit > 0u; bit >>= 1u) {
        let below = ties_below(key, id | bit, first, lane);
        if (bit == all) {
            let tied_weight = select(1.0, (reached - above) / below, by_weight);
            needed = max(1.0, ceil((goal - above) / tied_weight));
            if (below <= needed) {
                id = select(0xffffffffu, cut_id, key == cut_key);
                break;
            }
        } else if (below < needed) {
            id |= bit;
        }
    }
    cut_key = key;
    cut_id = id;
    return whole;
}
