// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <stdexcept>

namespace gs {

// What the user can do something about, in one line; Python gets errors.UserError.
struct InputError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace gs
