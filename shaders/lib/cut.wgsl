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

// Moves the cut up: the shortest prefix whose measure reaches `wanted` stays.
fn narrow(wanted: f32, by_weight: bool, first: u32, lane: u32) {
    var key = 0u;
    for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
        if (measure(key | bit, by_weight, first, lane) >= wanted) {
            key |= bit;
        }
    }
    let above = measure(key + 1u, by_weight, first, lane);
    let ties = ties_below(key, params.vocab, first, lane);
    let tied_weight = select(1.0, (measure(key, by_weight, first, lane) - above) / ties, by_weight);
    let needed = max(1.0, ceil((wanted - above) / tied_weight));
    var id = 0u;
    if (ties > needed) {
        for (var bit = 0x800000u; bit > 0u; bit >>= 1u) {
            if (ties_below(key, id | bit, first, lane) < needed) {
                id |= bit;
            }
        }
    } else {
        id = select(0xffffffffu, cut_id, key == cut_key);
    }
    cut_key = key;
    cut_id = id;
}
