"""What this image offers, used once: prints `ok`."""

import io

import bs4
import cv2
import docx
import duckdb
import lxml.etree
import matplotlib.pyplot as plt
import networkx
import numpy as np
import openpyxl
import pandas as pd
import pdfplumber
import PIL.Image
import pptx
import pyarrow
import reportlab.pdfgen.canvas
import scipy.optimize
import seaborn
import skimage.filters
import sklearn.linear_model
import statsmodels.api
import sympy

frame = pd.DataFrame({"x": np.arange(10.0), "y": 2 * np.arange(10.0) + 1})
model = sklearn.linear_model.LinearRegression().fit(frame[["x"]], frame["y"])
assert round(model.coef_[0], 6) == 2
assert statsmodels.api.OLS(frame["y"], statsmodels.api.add_constant(frame["x"])).fit().rsquared > 0.99
assert sympy.solve("x**2 - 4") == [-2, 2]
assert round(scipy.optimize.brentq(lambda x: x * x - 2, 0, 2), 4) == 1.4142
assert networkx.shortest_path(networkx.path_graph(4), 0, 3) == [0, 1, 2, 3]
assert duckdb.sql("select sum(x) from frame").fetchall() == [(45.0,)]
assert pyarrow.Table.from_pandas(frame).num_rows == 10
assert cv2.GaussianBlur(np.zeros((9, 9), np.uint8), (3, 3), 0).shape == skimage.filters.gaussian(np.zeros((9, 9))).shape

axes = seaborn.lineplot(frame, x="x", y="y")
axes.figure.savefig("plot.png")
plt.close()
assert PIL.Image.open("plot.png").format == "PNG"

frame.to_excel("table.xlsx", index=False)
assert openpyxl.load_workbook("table.xlsx").active["B2"].value == 1
document = docx.Document()
document.add_paragraph("hello")
document.save("text.docx")
pptx.Presentation().save("slides.pptx")
page = io.BytesIO()
canvas = reportlab.pdfgen.canvas.Canvas(page)
canvas.drawString(100, 700, "a page")
canvas.save()
with pdfplumber.open(page) as pdf:
    assert pdf.pages[0].extract_text() == "a page"
assert bs4.BeautifulSoup("<p>a</p>", "lxml").p.text == lxml.etree.fromstring("<p>a</p>").text
print("ok")
