// What this image offers, used once: prints `ok`.
import com.fasterxml.jackson.databind.ObjectMapper;
import com.google.common.collect.ImmutableList;
import com.google.gson.Gson;
import java.util.Map;
import org.apache.commons.lang3.StringUtils;
import org.apache.commons.math3.linear.LUDecomposition;
import org.apache.commons.math3.linear.MatrixUtils;
import org.apache.pdfbox.pdmodel.PDDocument;
import org.apache.pdfbox.pdmodel.PDPage;
import org.jsoup.Jsoup;

public class Example {
    static void must(boolean right) {
        if (!right) throw new AssertionError();
    }

    public static void main(String[] args) throws Exception {
        must(new ObjectMapper().readTree("{\"a\": [1, 2]}").get("a").get(1).asInt() == 2);
        must(new Gson().toJson(Map.of("a", 1)).equals("{\"a\":1}"));
        must(ImmutableList.of(1, 2).size() == 2);
        must(StringUtils.capitalize("ab").equals("Ab"));
        double[][] matrix = {{2, 1}, {1, 3}};
        must(Math.abs(new LUDecomposition(MatrixUtils.createRealMatrix(matrix)).getDeterminant() - 5) < 1e-9);
        must(Jsoup.parse("<p>a</p>").select("p").text().equals("a"));
        try (PDDocument document = new PDDocument()) {
            document.addPage(new PDPage());
            document.save("page.pdf");
        }
        System.out.println("ok");
    }
}
