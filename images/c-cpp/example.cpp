// What this image offers to C++, used once: prints `ok`.
#include <Eigen/Dense>
#include <boost/algorithm/string.hpp>
#include <boost/multiprecision/cpp_int.hpp>
#include <boost/regex.hpp>
#include <cassert>
#include <fmt/core.h>
#include <gmpxx.h>
#include <nlohmann/json.hpp>
#include <range/v3/all.hpp>

int main() {
    Eigen::Matrix2d matrix;
    matrix << 2, 1, 1, 3;
    assert(std::abs(matrix.determinant() - 5) < 1e-9);
    assert(boost::to_upper_copy(std::string("a")) == "A");
    assert(boost::multiprecision::pow(boost::multiprecision::cpp_int(2), 70) > 0);
    assert(boost::regex_match("ab", boost::regex("a.")));
    assert(mpz_class(2) + 3 == 5);
    assert(nlohmann::json::parse(R"({"a": [1, 2]})")["a"][1] == 2);
    assert(ranges::accumulate(ranges::views::iota(1, 5), 0) == 10);
    fmt::print("{}\n", "ok");
}
