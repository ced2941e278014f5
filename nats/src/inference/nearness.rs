//! How near vectors are to each other, as models of vectors mean it.

/// How near each vector is to the first one, by the cosine of their angle, −1 to 1: the numbers of the others, from 0, and the
/// nearest first. All have length 1.
#[must_use]
pub fn nearest(vectors: &[Vec<f32>]) -> Vec<(usize, f32)> {
    let Some((query, documents)) = vectors.split_first() else { return Vec::new() };
    let cosine = |vector: &Vec<f32>| query.iter().zip(vector).map(|(a, b)| a * b).sum::<f32>();
    let mut scores: Vec<(usize, f32)> = documents.iter().map(cosine).enumerate().collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1));
    scores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_comes_first_and_keeps_its_number() {
        let vectors = [vec![1.0, 0.0], vec![0.0, 1.0], vec![1.0, 0.0], vec![0.6, 0.8]];
        let order: Vec<usize> = nearest(&vectors).into_iter().map(|(index, _)| index).collect();
        assert_eq!(order, [1, 2, 0]);
    }
}
