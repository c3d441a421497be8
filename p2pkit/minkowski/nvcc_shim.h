/* Included before every CUDA source (NVCC_PREPEND_FLAGS="-include nvcc_shim.h"), so that
 * MinkowskiEngine 0.5.4 compiles with today's CUDA: headers that older Thrust included by itself,
 * the functor bases that Thrust 3 removed, and a call whose signature CUDA 13 changed. */
#ifndef P2PKIT_NVCC_SHIM_H
#define P2PKIT_NVCC_SHIM_H
#ifdef __CUDACC__

#ifndef CCCL_DISABLE_NVTX
#define CCCL_DISABLE_NVTX /* the sources bring an nvtx3 namespace of their own */
#endif

#include <memory>

#include <thrust/copy.h>
#include <thrust/count.h>
#include <thrust/execution_policy.h>
#include <thrust/fill.h>
#include <thrust/for_each.h>
#include <thrust/functional.h>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>
#include <thrust/iterator/zip_iterator.h>
#include <thrust/pair.h>
#include <thrust/reduce.h>
#include <thrust/remove.h>
#include <thrust/scan.h>
#include <thrust/sequence.h>
#include <thrust/sort.h>
#include <thrust/transform.h>
#include <thrust/tuple.h>
#include <thrust/unique.h>
#include <thrust/version.h>

#include <ATen/core/Tensor.h>

#if THRUST_VERSION >= 300000
namespace thrust {
template <typename Argument, typename Result> struct unary_function {
  using argument_type = Argument;
  using result_type = Result;
};
template <typename First, typename Second, typename Result> struct binary_function {
  using first_argument_type = First;
  using second_argument_type = Second;
  using result_type = Result;
};
} // namespace thrust
#endif

/* libstdc++'s shared_ptr calls __to_address unqualified; when the pointee's template arguments come
 * from cuda::std that call is ambiguous. A closer match settles it. */
template <typename Key, typename Element, typename Hasher, typename Equality, typename Allocator>
class concurrent_unordered_map;
template <typename Key, typename Element, typename Hasher, typename Equality, typename Allocator>
constexpr concurrent_unordered_map<Key, Element, Hasher, Equality, Allocator> *
__to_address(concurrent_unordered_map<Key, Element, Hasher, Equality, Allocator> *map) noexcept {
  return map;
}

#include <cuda_runtime_api.h>
#if CUDART_VERSION >= 13000
/* CUDA 13 dropped the form (pointer, bytes, device, stream). */
inline cudaError_t cudaMemPrefetchAsync(const void *pointer, size_t bytes, int device,
                                        cudaStream_t stream) {
  cudaMemLocation where{};
  where.type = device < 0 ? cudaMemLocationTypeHost : cudaMemLocationTypeDevice;
  where.id = device < 0 ? 0 : device;
  return ::cudaMemPrefetchAsync(pointer, bytes, where, 0u, stream);
}
#endif

#endif
#endif
