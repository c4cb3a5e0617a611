"""What a model is: the Model facade, the axis algebra, the operator table, verification, cost, a readable dump."""
