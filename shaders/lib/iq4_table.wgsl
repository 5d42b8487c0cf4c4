// The table of IQ4_NL and IQ4_XS: -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113.

fn table_number(place: vec4<u32>) -> vec4<f32> {
    let upper = (place & vec4<u32>(4u)) != vec4<u32>();
    let low = select(vec4<u32>(0xbfad9881u), vec4<u32>(0xf6eaddcfu), upper);
    let high = select(vec4<u32>(0x26190d01u), vec4<u32>(0x71594535u), upper);
    return signed_bytes(select(low, high, (place & vec4<u32>(8u)) != vec4<u32>()), place & vec4<u32>(3u));
}
