// Branches of a text: the tokens that may come next, and the rows that look beyond them.

struct Branch {
    token: u32,
    probability: f32,
}

struct Nucleus {
    // Branches listed.
    count: u32,
    // Tokens that reach the mass; more than are listed where the most allowed are fewer.
    size: u32,
    // Probability of the listed branches, and of all other tokens, each summed by itself.
    covered: f32,
    left_out: f32,
    // The branches' position in the text.
    position: u32,
    // Where they begin in the list.
    first: u32,
    pad0: u32,
    pad1: u32,
}

// Which branches are the next siblings.
struct Cursor {
    // The nucleus.
    nucleus: u32,
    // The branch that the next chunk begins with.
    first: u32,
    // The chunk under way, from 0.
    chunk: u32,
    // Rows a chunk may have, at most 32.
    most: u32,
    // 1: every chunk moves `first` on. 0: the first branches again and again.
    advance: u32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
}
