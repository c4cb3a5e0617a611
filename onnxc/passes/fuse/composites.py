"""placeholder"""
def composite(e, node):
    return False
