/* What codecs take and give: slices (model/slice.h). */
#pragma once
#include "model/slice.h"
