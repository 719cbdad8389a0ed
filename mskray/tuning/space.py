def merge(base, values):
    return {**base}


class SearchSpace: ...
