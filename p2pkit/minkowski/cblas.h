/* The four CBLAS calls that MinkowskiEngine makes, on the Fortran entry points (sgemm_, ...) that
 * libtorch_cpu exports, with 32-bit integers: no BLAS package is needed to build it. */
#ifndef P2PKIT_CBLAS_H
#define P2PKIT_CBLAS_H
#ifdef __cplusplus
extern "C" {
#endif

typedef enum CBLAS_ORDER { CblasRowMajor = 101, CblasColMajor = 102 } CBLAS_ORDER;
typedef enum CBLAS_TRANSPOSE {
  CblasNoTrans = 111,
  CblasTrans = 112,
  CblasConjTrans = 113
} CBLAS_TRANSPOSE;
typedef CBLAS_ORDER CBLAS_LAYOUT;

/* Row-major C = A B is column-major C^T = B^T A^T: swap the operands and their shapes. */
#define P2PKIT_BLAS(P, T)                                                                          \
  void P##gemm_(const char *, const char *, const int *, const int *, const int *, const T *,      \
                const T *, const int *, const T *, const int *, const T *, T *, const int *);      \
  static inline void cblas_##P##gemm(CBLAS_ORDER order, CBLAS_TRANSPOSE transpose_a,               \
                                     CBLAS_TRANSPOSE transpose_b, int m, int n, int k, T alpha,    \
                                     const T *a, int lda, const T *b, int ldb, T beta, T *c,       \
                                     int ldc) {                                                    \
    const char *flag_a = transpose_a == CblasNoTrans ? "N" : "T";                                  \
    const char *flag_b = transpose_b == CblasNoTrans ? "N" : "T";                                  \
    if (order == CblasColMajor)                                                                    \
      P##gemm_(flag_a, flag_b, &m, &n, &k, &alpha, a, &lda, b, &ldb, &beta, c, &ldc);              \
    else                                                                                           \
      P##gemm_(flag_b, flag_a, &n, &m, &k, &alpha, b, &ldb, a, &lda, &beta, c, &ldc);              \
  }                                                                                                \
  void P##axpy_(const int *, const T *, const T *, const int *, T *, const int *);                 \
  static inline void cblas_##P##axpy(int n, T alpha, const T *x, int step_x, T *y, int step_y) {   \
    P##axpy_(&n, &alpha, x, &step_x, y, &step_y);                                                  \
  }

P2PKIT_BLAS(s, float)
P2PKIT_BLAS(d, double)
#undef P2PKIT_BLAS

#ifdef __cplusplus
}
#endif
#endif
