// What the pieces of blocks share (src/format/blocks). A tile is 16 inputs of four columns, a group the pieces of four columns in a
// plane; those of neighbouring columns lie side by side. Shapes are inputs and columns in blocks of four.
//! use weight_at

@group(0) @binding(2) var<storage, read> weight: array<vec4<u32>>;

// Blocks of four inputs of a run.
const BLOCKS_OF_RUN: u32 = 4u;

fn tiles(shape: vec2<u32>) -> u32 {
    return shape.x / 4u * shape.y;
}

fn tile_at(shape: vec2<u32>, input4: u32, column4: u32) -> u32 {
    return input4 / 4u * shape.y + column4;
}

// The group of 32 inputs.
fn group32(shape: vec2<u32>, input4: u32, column4: u32) -> u32 {
    return input4 / 8u * shape.y + column4;
}

// The group of 256 inputs.
fn group256(shape: vec2<u32>, input4: u32, column4: u32) -> u32 {
    return input4 / 64u * shape.y + column4;
}

// The end of a plane that begins at `begin` and has `groups` of so many bytes a column.
fn after(begin: u32, groups: u32, bytes: u32) -> u32 {
    return begin + (groups * bytes + 3u) / 4u;
}

// A group of a byte a column.
fn group_word(plane: u32, group: u32) -> u32 {
    return weight[plane + group / 4u][group % 4u];
}

// A group of two bytes a column.
fn group_words(plane: u32, group: u32) -> vec2<u32> {
    let two = weight[plane + group / 2u];
    return select(two.xy, two.zw, group % 2u == 1u);
}

// Four f16.
fn halves(words: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}

// The lower and the upper f16 of four words.
struct Halves {
    low: vec4<f32>,
    high: vec4<f32>,
}

fn two_halves(words: vec4<u32>) -> Halves {
    let x = unpack2x16float(words.x);
    let y = unpack2x16float(words.y);
    let z = unpack2x16float(words.z);
    let w = unpack2x16float(words.w);
    return Halves(vec4<f32>(x.x, y.x, z.x, w.x), vec4<f32>(x.y, y.y, z.y, w.y));
}

fn four_bytes(word: u32) -> vec4<u32> {
    return (vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u);
}

// Byte `byte` of each of four words, with its sign.
fn signed_bytes(words: vec4<u32>, byte: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(bitcast<vec4<i32>>(words << (vec4<u32>(24u) - 8u * byte)) >> vec4<u32>(24u));
}

fn four_signed_bytes(word: u32) -> vec4<f32> {
    return signed_bytes(vec4<u32>(word), vec4<u32>(0u, 1u, 2u, 3u));
}

// Four bits of each weight of a tile: the words of blocks of four inputs 0 and 2, those of blocks 1 and 3.
struct Nibbles {
    even: vec4<u32>,
    odd: vec4<u32>,
}

// The nibbles of a tile, whose plane begins the matrix.
fn nibbles_at(tile: u32) -> Nibbles {
    let a = weight[2u * tile];
    let b = weight[2u * tile + 1u];
    return Nibbles(vec4<u32>(a.xz, b.xz), vec4<u32>(a.yw, b.yw));
}

fn nibble(nibbles: Nibbles, block: u32, input: u32) -> vec4<u32> {
    let words = select(nibbles.even, nibbles.odd, block % 2u == 1u);
    return (words >> vec4<u32>(8u * input + 4u * (block / 2u))) & vec4<u32>(15u);
}

// Two bits of each weight of a tile.
fn two_bits(words: vec4<u32>, block: u32, input: u32) -> vec4<u32> {
    return (words >> vec4<u32>(8u * input + 2u * block)) & vec4<u32>(3u);
}

// A bit of each weight of a tile, 16 a column.
fn bits_of(words: vec2<u32>) -> vec4<u32> {
    return vec4<u32>(words.x & 0xffffu, words.x >> 16u, words.y & 0xffffu, words.y >> 16u);
}

fn one_bit(bits: vec4<u32>, block: u32, input: u32) -> vec4<u32> {
    return (bits >> vec4<u32>(4u * block + input)) & vec4<u32>(1u);
}

// Scale and minimum of a group of K formats with both: d s and dmin m.
fn scale_and_minimum(words: vec2<u32>, halves: Halves) -> Halves {
    let both = vec4<u32>(words.x, words.x >> 16u, words.y, words.y >> 16u);
    return Halves(halves.low * vec4<f32>(both & vec4<u32>(255u)), halves.high * vec4<f32>((both >> vec4<u32>(8u)) & vec4<u32>(255u)));
}
