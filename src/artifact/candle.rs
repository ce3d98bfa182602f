//! Tensors to and from candle's.

use candle_core::{DType, Device, Error, Result};

use super::tensor::{ElementType, Tensor};

impl Tensor {
    /// The same tensor as candle's, on a device.
    ///
    /// # Errors
    /// If candle does not compute with this element type, or the device fails.
    pub fn to_candle(&self, device: &Device) -> Result<candle_core::Tensor> {
        let dtype = computed(DType::try_from(self.element())?)?;
        candle_core::Tensor::from_raw_buffer(self.bytes(), dtype, self.shape(), device)
    }

    /// A tensor from candle's, on any device.
    ///
    /// # Errors
    /// If candle does not compute with this element type, or the device fails.
    pub fn from_candle(tensor: &candle_core::Tensor) -> Result<Self> {
        let element = ElementType::from(computed(tensor.dtype())?);
        let mut bytes = Vec::with_capacity(tensor.elem_count() * element.bitsize() / 8);
        tensor.write_bytes(&mut bytes)?;
        Self::from_bytes(element, tensor.dims(), bytes).map_err(Error::wrap)
    }
}

/// Refuses the types that candle names, but does not compute with.
fn computed(dtype: DType) -> Result<DType> {
    match dtype {
        DType::F6E2M3 | DType::F6E3M2 | DType::F4 | DType::F8E8M0 => {
            Err(Error::UnsupportedSafeTensorDtype(dtype.into()))
        }
        _ => Ok(dtype),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_that_candle_computes_with_keeps_its_bytes() {
        use ElementType::{BF16, F8_E4M3, F16, F32, F64, I16, I32, I64, U8, U32};
        for element in [U8, U32, I16, I32, I64, BF16, F16, F32, F64, F8_E4M3] {
            let wanted = DType::try_from(element).unwrap();
            for shape in [vec![2, 3], vec![], vec![0, 4]] {
                let count = shape.iter().product::<usize>() * element.bitsize() / 8;
                // Any bits but those of NaN: the high bits of a float are 0.
                let bytes: Vec<u8> = (0..count).map(|i| (i as u8).wrapping_mul(37) & 0x3f).collect();
                let tensor = Tensor::from_bytes(element, shape, bytes).unwrap();
                let there = tensor.to_candle(&Device::Cpu).unwrap();
                assert_eq!((there.dtype(), there.dims()), (wanted, tensor.shape()), "{tensor:?}");
                assert_eq!(Tensor::from_candle(&there).unwrap(), tensor);
            }
        }
        let values = Tensor::new([2, 2], &[1.5f32, -2.0, f32::INFINITY, 0.25]).unwrap();
        let there = values.to_candle(&Device::Cpu).unwrap();
        assert_eq!(there.to_vec2::<f32>().unwrap(), [[1.5, -2.0], [f32::INFINITY, 0.25]]);
        let transposed = Tensor::from_candle(&there.t().unwrap()).unwrap();
        assert_eq!(transposed.to_vec::<f32>().unwrap(), [1.5, f32::INFINITY, -2.0, 0.25]);
    }

    #[test]
    fn type_that_candle_does_not_compute_with_is_an_error() {
        let refused = |element: ElementType| {
            let tensor = Tensor::from_bytes(element, [4], vec![0; element.bitsize() / 2]).unwrap();
            tensor.to_candle(&Device::Cpu).unwrap_err().to_string()
        };
        use ElementType::{BOOL, C64, F4, F6_E2M3, F8_E5M2, F8_E8M0, I8, U16, U64};
        for element in [BOOL, C64, F4, F6_E2M3, F8_E5M2, F8_E8M0, I8, U16, U64] {
            assert_eq!(refused(element), format!("unsupported safetensor dtype {element:?}"));
        }
        let dummy = candle_core::Tensor::from_raw_buffer(&[0; 2], DType::F4, &[4], &Device::Cpu).unwrap();
        assert!(Tensor::from_candle(&dummy).is_err());
    }
}
