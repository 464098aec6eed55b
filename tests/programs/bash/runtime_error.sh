: "${unset:?boom}"
