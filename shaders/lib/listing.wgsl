// Lists what a cut has kept. The shader says where an entry goes: `enter(place, id)`.

var<workgroup> listed: array<u32, LANES>;

// Lists the `count` kept tokens: in order if they are at most LANES, else grouped by the lane that found them. Every
// lane must bring the same `count`.
fn list_kept(count: u32, first: u32, lane: u32) {
    var mine = 0u;
    for (var i = lane; i < params.vocab; i += LANES) {
        mine += select(0u, 1u, kept(sort_key(ranked(first + i)), i));
    }
    listed[lane] = mine;
    workgroupBarrier();
    var place = 0u;
    for (var other = 0u; other < lane; other++) {
        place += listed[other];
    }
    workgroupBarrier();
    for (var i = lane; i < params.vocab; i += LANES) {
        if (kept(sort_key(ranked(first + i)), i)) {
            if (count > LANES) {
                enter(place, i);
            } else {
                listed[place] = i;
            }
            place += 1u;
        }
    }
    // What other lanes have written is read from here on.
    workgroupBarrier();
    storageBarrier();
    if (count <= LANES && lane < count) {
        let id = listed[lane];
        let key = sort_key(ranked(first + id));
        var before = 0u;
        for (var i = 0u; i < count; i++) {
            let other = listed[i];
            let other_key = sort_key(ranked(first + other));
            before += select(0u, 1u, other_key > key || (other_key == key && other < id));
        }
        enter(before, id);
    }
}
