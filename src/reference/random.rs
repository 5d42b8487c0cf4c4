//! Randomness as a function of (seed, position, token).

/// The hash pcg4d (Jarzynski and Olano, JCGT 9(3), 2020).
pub(crate) fn pcg4d(input: [u32; 4]) -> [u32; 4] {
    let mixed = round(input.map(|x| x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223)));
    round(mixed.map(|x| x ^ (x >> 16)))
}

/// One component after the other: each is mixed with what stands in the others by then.
fn round([x, y, z, w]: [u32; 4]) -> [u32; 4] {
    let x = x.wrapping_add(y.wrapping_mul(w));
    let y = y.wrapping_add(z.wrapping_mul(x));
    let z = z.wrapping_add(x.wrapping_mul(y));
    let w = w.wrapping_add(y.wrapping_mul(z));
    [x, y, z, w]
}

/// The uniform number of 32 random bits, an f32 in (0, 1): the shader's rounding is part of the definition.
pub(crate) fn uniform(bits: u32) -> f32 {
    ((bits as f32 + 0.5) * 2f32.powi(-32)).min(1.0 - 2f32.powi(-24))
}

/// The noise of a token at a position.
pub(crate) fn gumbel(seed: [u32; 2], position: u32, token: u32) -> f64 {
    gumbel_of(pcg4d([seed[0], seed[1], position, token])[0])
}

/// A standard Gumbel variate, -log(-log(1 - u)).
pub(crate) fn gumbel_of(bits: u32) -> f64 {
    -(-(-f64::from(uniform(bits))).ln_1p()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pcg4d_agrees_with_the_published_code() {
        // The listing of the paper, compiled as C.
        assert_eq!(pcg4d([0, 0, 0, 0]), [0x0f02_f829, 0x2d56_8769, 0x32b0_c43b, 0xd325_48ea]);
        assert_eq!(pcg4d([1, 2, 3, 4]), [0x3622_cd16, 0xf114_71d8, 0xe110_9b3f, 0x02b9_4c2f]);
        assert_eq!(pcg4d([0xffff_ffff, 7, 0, 123_456]), [0xbe2a_97d5, 0x13a5_e043, 0xcacd_3a4a, 0x10dd_e307]);
    }
}
