// What this image offers to C, used once: prints `ok`.
#include <assert.h>
#include <cjson/cJSON.h>
#include <fftw3.h>
#include <gmp.h>
#include <gsl/gsl_sf_bessel.h>
#include <math.h>
#include <openssl/sha.h>
#include <sqlite3.h>
#include <stdio.h>
#include <zlib.h>

int main(void) {
    mpz_t power;
    mpz_init(power);
    mpz_ui_pow_ui(power, 2, 200);
    assert(mpz_sizeinbase(power, 2) == 201);
    assert(fabs(gsl_sf_bessel_J0(5.0) + 0.17759677131433830434739701) < 1e-12);
    fftw_complex *data = fftw_alloc_complex(8);
    fftw_plan plan = fftw_plan_dft_1d(8, data, data, FFTW_FORWARD, FFTW_ESTIMATE);
    fftw_execute(plan);
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256((const unsigned char *)"", 0, digest);
    assert(digest[0] == 0xe3);
    assert(crc32(0, (const Bytef *)"a", 1) == 0xe8b7be43);
    sqlite3 *database;
    assert(sqlite3_open(":memory:", &database) == SQLITE_OK);
    cJSON *json = cJSON_Parse("{\"a\": 1}");
    assert(cJSON_GetObjectItem(json, "a")->valueint == 1);
    puts("ok");
}
